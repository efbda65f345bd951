#include "norm.cuh"

// output[t] = norm(words[id[t]] + positions[place[t]] + kinds[type[t]]): rows of tables [·, H], output [T, H]. A null
// pointer for positions or kinds adds nothing; for types, every token has type 0; for the gain, there is no norm. A warp
// takes a row.
//
// grid = ⌈T / NORM_ROWS⌉, block = 32 · NORM_ROWS
namespace {

template <int EIGHTS>
DEVICE void embed(const unsigned* ids, const unsigned* places, const unsigned* types, const number* words,
    const number* positions, const number* kinds, const Norm& norm, number* output, int rows, int width) {
    const int row = blockIdx.x * NORM_ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const size_t stride = width;
    const number* word = words + load(ids + row) * stride;
    const number* position = positions == nullptr ? nullptr : positions + load(places + row) * stride;
    const number* kind = kinds == nullptr || types == nullptr ? kinds : kinds + load(types + row) * stride;
    float x[EIGHTS][8];
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        read8(x[n], word + column(n));
        if (position != nullptr) add8(x[n], position + column(n));
        if (kind != nullptr) add8(x[n], kind + column(n));
    }
    if (norm.gain != nullptr) normalize(x, norm, width);
    write(x, width, output + row * stride);
}

}  // namespace

#define ENTRY(width_max, eights)                                                                                    \
    KERNEL(32 * NORM_ROWS)                                                                                          \
    embed_##width_max(const unsigned* ids, const unsigned* places, const unsigned* types, const number* words,        \
        const number* positions, const number* kinds, const float* gain, const float* shift, float epsilon, int kind,   \
        number* output, int rows, int width) {                                                                        \
        embed<eights>(ids, places, types, words, positions, kinds, Norm{gain, shift, epsilon, kind}, output, rows,  \
            width);                                                                                                 \
    }
FOR_EVERY_WIDTH(ENTRY)
#undef ENTRY
