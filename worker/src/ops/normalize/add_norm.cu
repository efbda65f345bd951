#include "norm.cuh"

// output[r] = norm(input[r] + residual[r]), each [R, H]; no residual is a null pointer. A warp takes a row. The output
// may be the input or the residual.
//
// grid = ⌈R / NORM_ROWS⌉, block = 32 · NORM_ROWS
namespace {

template <int EIGHTS>
DEVICE void add_norm(
    const number* input, const number* residual, const Norm& norm, number* output, int rows, int width) {
    const int row = blockIdx.x * NORM_ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const size_t at = static_cast<size_t>(row) * width;
    float x[EIGHTS][8];
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        read8(x[n], input + at + column(n));
        if (residual != nullptr) add8(x[n], residual + at + column(n));
    }
    normalize(x, norm, width);
    write(x, width, output + at);
}

}  // namespace

#define ENTRY(width_max, eights)                                                                             \
    KERNEL(32 * NORM_ROWS)                                                                                   \
    add_norm_##width_max(const number* input, const number* residual, const float* gain, const float* shift,     \
        float epsilon, int kind, number* output, int rows, int width) {                                        \
        add_norm<eights>(input, residual, Norm{gain, shift, epsilon, kind}, output, rows, width);            \
    }
FOR_EVERY_WIDTH(ENTRY)
#undef ENTRY
