// What the kernels of attention have in common: where a head's rows are, and which of them see each other.
#pragma once
#include "gpu.cuh"

// Less than any score: what softmax has seen so far of a row that has seen no key yet. From -∞ it would take -∞.
constexpr float LEAST = -3.402823466e38f;

// One head's part in a batch of queries, keys and values.
template <class T>
struct Rows {
    const T *queries, *keys, *values;  // of the sequence's first token
    size_t width;                      // from row to row
    int length;

    DEVICE Rows(const T* qkv, int begin, int length, int heads, int sharing, int head_width) : length(length) {
        const int shared = heads / sharing;
        width = static_cast<size_t>(heads + 2 * shared) * head_width;
        queries = qkv + begin * width + blockIdx.y * head_width;
        keys = qkv + begin * width + (heads + blockIdx.y / sharing) * head_width;
        values = keys + shared * head_width;
    }
};

// Keys that a row sees: those from `low` on and before `high`.
struct Seen {
    int low, high;

    DEVICE Seen(int row, int before, int after, int length) : low(row - before), high(min(row + after + 1, length)) {}

    DEVICE bool has(int key) const { return key >= low && key < high; }
};
