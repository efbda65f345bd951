#include "gpu.cuh"

// output[m] = input[marks[m]]: rows of any numbers, `pieces` of 16 bytes long.
//
// grid = M, block = 64
KERNEL(64) pick(const uint4* input, const unsigned* marks, uint4* output, int pieces) {
    const uint4* from = input + static_cast<size_t>(load(marks + blockIdx.x)) * pieces;
    uint4* to = output + static_cast<size_t>(blockIdx.x) * pieces;
    for (int at = threadIdx.x; at < pieces; at += 64) store(to + at, load(from + at));
}
