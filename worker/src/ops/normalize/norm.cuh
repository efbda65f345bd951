// A row in the registers of one warp, and its layer norm: the end of `embed` and of `add_norm`.
#pragma once
#include "gpu.cuh"

// Rows, and warps, of a block.
constexpr int NORM_ROWS = 4;

// Where the n-th eight values of this lane stand in a row. A warp holds EIGHTS · 256 values.
DEVICE int column(int n) {
    return (n * 32 + static_cast<int>(threadIdx.x & 31)) * 8;
}

// Adds eight values of a row to those in registers.
DEVICE void add8(float (&x)[8], const bf16* row) {
    float other[8];
    unpack(other, load8(row));
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] += other[i];
}

// output = (x - mean) / sqrt(variance + epsilon) · gain + shift. `width` is a multiple of 8.
template <int EIGHTS>
DEVICE void write_normalized(
    const float (&x)[EIGHTS][8], const float* gain, const float* shift, float epsilon, int width, bf16* output) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
#pragma unroll
        for (int i = 0; i < 8; i++) sum += x[n][i];
    }
    const float mean = warp_sum(sum) / static_cast<float>(width);
    float squares = 0;
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
#pragma unroll
        for (int i = 0; i < 8; i++) squares += (x[n][i] - mean) * (x[n][i] - mean);
    }
    const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(width) + epsilon);
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        float y[8];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float4 g = load4(gain + column(n) + 4 * half), s = load4(shift + column(n) + 4 * half);
            const float gains[4] = {g.x, g.y, g.z, g.w}, shifts[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
            for (int i = 0; i < 4; i++) y[4 * half + i] = (x[n][4 * half + i] - mean) * scale * gains[i] + shifts[i];
        }
        store8(output + column(n), pack(y));
    }
}

// One entry point for each number of eights that a lane may hold; the width at most is in the name.
#define FOR_EVERY_WIDTH(entry) entry(256, 1) entry(512, 2) entry(768, 3) entry(1024, 4) entry(2048, 8)
