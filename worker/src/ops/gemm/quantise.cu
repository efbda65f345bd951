#include "gpu.cuh"

// Rows [R, K], multiplied with factors [K] if there are any, as bytes, and what makes them numbers again:
// x[r, k] · factors[k] = scale[r] · bytes[r, k] + minimum[r], to half a scale. Rows of bytes are as long as the next multiple of
// 16, filled up with zeros. A row with what is no number has a scale that is none.
//
// A warp takes a row: once for its least and its largest number, and again, from what is near by then.
//
// ranges: [R, 2], scale and minimum
// grid = ⌈R / 4⌉, block = 128
namespace {

constexpr int ROWS = 4;
constexpr float BYTE_MAX = 255.0f;
// No range is smaller: a row of equal numbers has none.
constexpr float RANGE_MIN = 1e-20f;
// 2^23: added to a byte it leaves the nearest whole number, ties to even, in the lowest bits.
constexpr float ROUND = 8388608.0f;

// Eight numbers of a row.
DEVICE void take8(float (&x)[8], const bf16* row, const float* factors, int at) {
    read8(x, row + at);
    if (factors == nullptr) return;
    float by[8];
    read8(by, factors + at);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] *= by[i];
}

}  // namespace

KERNEL(32 * ROWS)
quantise(const bf16* input, const float* factors, byte* bytes, float* ranges, int rows, int width) {
    const int lane = threadIdx.x & 31, row = static_cast<int>(blockIdx.x * ROWS + threadIdx.x / 32);
    if (row >= rows) return;
    const int stride = (width + 15) / 16 * 16;
    input += static_cast<size_t>(row) * width;
    bytes += static_cast<size_t>(row) * stride;

    float least = -MINUS_INFINITY, most = MINUS_INFINITY;
    // Least and largest pass over what is no number; times zero it stays none.
    float nothing = 0;
#pragma unroll 2
    for (int at = lane * 8; at < width; at += 256) {
        float x[8];
        take8(x, input, factors, at);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            least = fminf(least, x[i]);
            most = fmaxf(most, x[i]);
            nothing = fmaf(x[i], 0.0f, nothing);
        }
    }
    least = warp_min(least);
    most = warp_max(most);
    nothing = PLANTED(quantise_forgets_what_is_no_number) ? 0.0f : warp_sum(nothing);

    const float scale = fmaxf(most - least, RANGE_MIN) / BYTE_MAX, inverse = 1.0f / scale, offset = -least / scale;
#pragma unroll 2
    for (int at = lane * 8; at < stride; at += 256) {
        unsigned words[2] = {0, 0};
        if (at < width) {
            float x[8];
            take8(x, input, factors, at);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float whole = fminf(fmaxf(fmaf(x[i], inverse, offset), 0.0f), BYTE_MAX) + ROUND;
                words[i / 4] |= (__float_as_uint(whole) & 0xffu) << i % 4 * 8;
            }
        } else if (PLANTED(quantise_leaves_the_end_of_rows)) {
            continue;
        }
        store(reinterpret_cast<uint2*>(bytes + at), make_uint2(words[0], words[1]));
    }
    if (lane < 2) store(ranges + 2 * static_cast<size_t>(row) + lane, lane == 0 ? scale + nothing : least);
}
