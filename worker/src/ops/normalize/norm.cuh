// A row in the registers of one warp, and its norm: the end of `embed` and of `add_norm`.
#pragma once
#include "gpu.cuh"

// Rows, and warps, of a block.
constexpr int NORM_ROWS = 4;

enum NormKind { LAYER, RMS };

// (x - mean) / sqrt(variance + epsilon) · gain + shift; an RMS norm takes 0 for the mean. No shift is a null pointer.
struct Norm {
    const float* gain;
    const float* shift;
    float epsilon;
    int kind;

    // Applies it to eight values, of which the first has the gain and shift `at`.
    DEVICE void apply(float (&x)[8], float mean, float scale, int at) const {
#pragma unroll
        for (int half = 0; half < 8; half += 4) {
            const float4 g = load4(gain + at + half);
            const float4 s = shift == nullptr ? make_float4(0, 0, 0, 0) : load4(shift + at + half);
            const float gains[4] = {g.x, g.y, g.z, g.w}, shifts[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
            for (int i = 0; i < 4; i++) x[half + i] = (x[half + i] - mean) * scale * gains[i] + shifts[i];
        }
    }
};

// Where the n-th eight values of this lane stand in a row. A warp holds EIGHTS · 256 values.
DEVICE int column(int n) {
    return (n * 32 + static_cast<int>(threadIdx.x & 31)) * 8;
}

// Puts the row through its norm. `width` is a multiple of 8.
template <int EIGHTS>
DEVICE void normalize(float (&x)[EIGHTS][8], const Norm& norm, int width) {
    float mean = 0;
    if (norm.kind == LAYER) {
        float sum = 0;
#pragma unroll
        for (int n = 0; n < EIGHTS; n++) {
            if (column(n) >= width) break;
#pragma unroll
            for (int i = 0; i < 8; i++) sum += x[n][i];
        }
        mean = warp_sum(sum) / static_cast<float>(width);
    }
    float squares = 0;
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
#pragma unroll
        for (int i = 0; i < 8; i++) squares += (x[n][i] - mean) * (x[n][i] - mean);
    }
    const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(width) + norm.epsilon);
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        norm.apply(x[n], mean, scale, column(n));
    }
}

template <int EIGHTS, class T>
DEVICE void write(const float (&x)[EIGHTS][8], int width, T* output) {
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        write8(output + column(n), x[n]);
    }
}

// One entry point for each number of eights that a lane may hold; the width at most is in the name.
#define FOR_EVERY_WIDTH(entry) entry(256, 1) entry(512, 2) entry(768, 3) entry(1024, 4) entry(2048, 8)
