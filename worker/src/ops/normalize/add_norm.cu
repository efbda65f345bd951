#include "norm.cuh"

// output[r] = norm(input[r] + residual[r]), each [R, H]; no residual is a null pointer. A warp takes a row. The output
// may be the input or the residual.
//
// grid = ⌈R / NORM_ROWS⌉, block = 32 · NORM_ROWS
namespace {

template <int EIGHTS>
DEVICE void add_norm(const bf16* input, const bf16* residual, const float* gain, const float* shift, bf16* output,
    int rows, int width, float epsilon) {
    const int row = blockIdx.x * NORM_ROWS + threadIdx.x / 32;
    if (row >= rows) return;
    const size_t at = static_cast<size_t>(row) * width;
    float x[EIGHTS][8];
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
        if (column(n) >= width) break;
        unpack(x[n], load8(input + at + column(n)));
        if (residual != nullptr) add8(x[n], residual + at + column(n));
    }
    write_normalized(x, gain, shift, epsilon, width, output + at);
}

}  // namespace

#define ENTRY(width_max, eights)                                                                                   \
    KERNEL(32 * NORM_ROWS)                                                                                         \
    add_norm_##width_max(const bf16* input, const bf16* residual, const float* gain, const float* shift, bf16* output, \
        int rows, int width, float epsilon) {                                                                      \
        add_norm<eights>(input, residual, gain, shift, output, rows, width, epsilon);                              \
    }
FOR_EVERY_WIDTH(ENTRY)
#undef ENTRY
