#include "norm.cuh"

// output[t] = norm(words[id[t]] + positions[place[t]] + kinds[type[t]]): rows of tables [·, H], output [T, H]. Without
// types every token has type 0; without a table of kinds nothing is added. A warp takes a row.
//
// grid = ⌈T / NORM_ROWS⌉, block = 32 · NORM_ROWS
namespace {

template <int EIGHTS>
DEVICE void embed(const unsigned* ids, const unsigned* places, const unsigned* types, const bf16* words,
    const bf16* positions, const bf16* kinds, const float* gain, const float* shift, bf16* output, int rows, int width,
    float epsilon) {
    const int row = blockIdx.x * NORM_ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const size_t stride = width;
    const bf16* word = words + load(ids + row) * stride;
    const bf16* position = positions + load(places + row) * stride;
    const bf16* kind = kinds == nullptr || types == nullptr ? kinds : kinds + load(types + row) * stride;
    float x[EIGHTS][8];
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        unpack(x[n], load8(word + column(n)));
        add8(x[n], position + column(n));
        if (kind != nullptr) add8(x[n], kind + column(n));
    }
    write_normalized(x, gain, shift, epsilon, width, output + row * stride);
}

}  // namespace

#define ENTRY(width_max, eights)                                                                                      \
    KERNEL(32 * NORM_ROWS)                                                                                            \
    embed_##width_max(const unsigned* ids, const unsigned* places, const unsigned* types, const bf16* words,          \
        const bf16* positions, const bf16* kinds, const float* gain, const float* shift, bf16* output, int rows,      \
        int width, float epsilon) {                                                                                   \
        embed<eights>(ids, places, types, words, positions, kinds, gain, shift, output, rows, width, epsilon);        \
    }
FOR_EVERY_WIDTH(ENTRY)
#undef ENTRY
