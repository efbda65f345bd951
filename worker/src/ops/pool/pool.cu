#include "gpu.cuh"

// output[n] = pool(input[splits[n]..splits[n + 1]]): [T, H] and [N + 1] in, [N, H] out, as numbers for another op or as
// floats for the host. What an empty sequence gives is no number; H is a multiple of 8.
//
// A block takes 256 columns of a sequence, each of its warps every fourth row; the sums meet in shared memory. So the
// order of additions is that of the sequence's length alone.
//
// grid = (N, ⌈H / 256⌉), block = 128
namespace {

constexpr int WARPS = 4;

enum Pooling { MEAN, CLS, MAX, LAST };

DEVICE float join(float x, float y, int pooling) {
    return pooling == MAX ? fmaxf(x, y) : x + y;
}

template <class T>
DEVICE void pool(const number* input, const unsigned* splits, T* output, int width, int pooling) {
    SHARED(float, parts, WARPS * 8 * 32);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int at = blockIdx.y * 256 + lane * 8;
    const bool is_there = at < width;
    const unsigned begin = load(splits + blockIdx.x), end = load(splits + blockIdx.x + 1);
    const unsigned first = pooling == LAST && begin < end ? end - 1 : begin;
    const unsigned last = pooling == CLS && begin < end ? begin + 1 : end;
    float sum[8];
    for (int i = 0; i < 8; i++) sum[i] = pooling == MAX ? MINUS_INFINITY : 0.0f;
    for (unsigned row = first + warp; row < last; row += WARPS) {
        if (!is_there) break;
        float x[8];
        read8(x, input + static_cast<size_t>(row) * width + at);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] = join(sum[i], x[i], pooling);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) store(parts + (warp * 8 + i) * 32 + lane, sum[i]);
    if (!PLANTED(pool_without_barrier)) __syncthreads();
    if (warp != 0 || !is_there) return;
    const float scale = pooling == MEAN ? 1.0f / static_cast<float>(end - begin) : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int other = 1; other < WARPS; other++) {
            sum[i] = join(sum[i], load(parts + (other * 8 + i) * 32 + lane), pooling);
        }
        sum[i] *= scale;
    }
    write8(output + static_cast<size_t>(blockIdx.x) * width + at, sum);
}

}  // namespace

KERNEL(32 * WARPS) pool_number(const number* input, const unsigned* splits, number* output, int width, int pooling) {
    pool(input, splits, output, width, pooling);
}

KERNEL(32 * WARPS) pool_f32(const number* input, const unsigned* splits, float* output, int width, int pooling) {
    pool(input, splits, output, width, pooling);
}
