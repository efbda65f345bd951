#include "norm.cuh"

// Rotary positions: rows [T, (queries + 2 · keys) · D] are queries, keys and values, head after head. Each head of
// queries and of keys is put through its norm, if it has one, and numbers d and D/2 + d of it are turned by the angle
// place[t] · base^(-2d/D); values are copied. The output may be the input; then only `heads = queries + keys` of all
// need be written.
//
// A thread takes eight numbers of each half of a head, so that a head is D / 16 threads: `lanes`, the next power of two,
// lie side by side in a warp, and a warp takes as many heads of one token as it has room for.
//
// frequencies: [D / 2], base^(-2d/D); D is a multiple of 16 up to 128
// grid = (⌈T / ROWS⌉, ⌈heads / (32 / lanes)⌉), block = 32 · ROWS
namespace {

constexpr int ROWS = 8;

// Over `lanes` lanes side by side.
DEVICE float sum_over(int lanes, float x) {
    for (int distance = lanes / 2; distance > 0; distance >>= 1) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

// Puts a head of D numbers through its norm, of which this lane has some if it `has_any`. All lanes come here.
DEVICE void normalize_head(float (&x)[8], float (&y)[8], const Norm& norm, int width, int at, int lanes, bool has_any) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += x[i] + y[i];
    sum = sum_over(lanes, sum);
    const float mean = norm.kind == LAYER ? sum / static_cast<float>(width) : 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) squares += (x[i] - mean) * (x[i] - mean) + (y[i] - mean) * (y[i] - mean);
    squares = sum_over(lanes, has_any ? squares : 0.0f);
    if (!has_any) return;
    const float scale = rsqrtf(squares / static_cast<float>(width) + norm.epsilon);
    norm.apply(x, mean, scale, at);
    norm.apply(y, mean, scale, at + width / 2);
}

// Sine and cosine to two units in the last place, for angles from 0 to 100,000. CUDA's sinf and cosf do the same below
// 105,615, but have code for larger ones behind it that needs local memory. The angle less a multiple of π/2, which is
// taken away in three parts, and minimax polynomials for what is left.
DEVICE void sine_and_cosine(float angle, float& sine, float& cosine) {
    const float quarters = rintf(angle * 0.636619747f);
    float x = fmaf(quarters, -0x1.921fb0p+00f, angle);
    x = fmaf(quarters, -0x1.5110b4p-22f, x);
    x = fmaf(quarters, -0x1.846988p-48f, x);
    const float square = x * x;
    float odd = fmaf(2.86567956e-6f, square, -1.98559923e-4f);
    odd = fmaf(odd, square, 8.33338592e-3f);
    odd = fmaf(odd, square, -1.66666672e-1f);
    odd = fmaf(odd, x * square, x);
    float even = fmaf(2.44677067e-5f, square, -1.38877297e-3f);
    even = fmaf(even, square, 4.16666567e-2f);
    even = fmaf(even, square, -0.5f);
    even = fmaf(even, square, 1.0f);
    const int quadrant = static_cast<int>(quarters);
    sine = quadrant & 1 ? even : odd;
    cosine = quadrant & 1 ? odd : even;
    if (quadrant & 2) sine = -sine;
    if ((quadrant + 1) & 2) cosine = -cosine;
}

// Turns eight points of the plane, at a place.
DEVICE void turn(float (&x)[8], float (&y)[8], float place, const float (&frequencies)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float sine, cosine;
        sine_and_cosine(place * frequencies[i], sine, cosine);
        const float from = x[i];
        x[i] = from * cosine - y[i] * sine;
        y[i] = y[i] * cosine + from * sine;
    }
}

}  // namespace

KERNEL(32 * ROWS)
rotate(const number* qkv, const unsigned* places, const float* frequencies, const float* query_gain,
    const float* query_shift, float query_epsilon, int query_kind, const float* key_gain, const float* key_shift,
    float key_epsilon, int key_kind, number* output, int tokens, int queries, int keys, int heads, int width,
    int lanes) {
    const int half = width / 2, row = blockIdx.x * ROWS + threadIdx.x / 32, lane = threadIdx.x & 31;
    if (row >= tokens) return;
    const int head = blockIdx.y * (32 / lanes) + lane / lanes, at = lane % lanes * 8;
    const bool is_there = head < heads && at < half, is_turned = is_there && head < queries + keys;
    const size_t start = (static_cast<size_t>(row) * (queries + 2 * keys) + head) * width + at;
    float x[8] = {}, y[8] = {};
    if (is_there) {
        read8(x, qkv + start);
        read8(y, qkv + start + half);
    }
    if (query_gain != nullptr) {
        const Norm norm = head < queries ? Norm{query_gain, query_shift, query_epsilon, query_kind}
                                         : Norm{key_gain, key_shift, key_epsilon, key_kind};
        normalize_head(x, y, norm, width, at, lanes, is_turned);
    }
    if (is_turned) {
        float speeds[8];
        read8(speeds, frequencies + at);
        turn(x, y, static_cast<float>(load(places + row)), speeds);
    }
    if (!is_there) return;
    write8(output + start, x);
    write8(output + start + half, y);
}
