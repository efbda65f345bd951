#include "gpu.cuh"

// output[m] = input[marks[m]]: [T, H] and [M] in, [M, H] out. H is a multiple of 8.
//
// grid = M, block = 64
KERNEL(64) pick(const bf16* input, const unsigned* marks, bf16* output, int width) {
    const bf16* from = input + static_cast<size_t>(load(marks + blockIdx.x)) * width;
    bf16* to = output + static_cast<size_t>(blockIdx.x) * width;
    for (int at = static_cast<int>(threadIdx.x) * 8; at < width; at += 64 * 8) store8(to + at, load8(from + at));
}
