#include "activation.cuh"

// output[r, i] = activation(input[r, i]) · input[r, W + i]: [R, 2W] in, [R, W] out, W a multiple of 8. A thread takes
// eight numbers.
//
// grid = ⌈R · W / 8 / 256⌉, block = 256
namespace {

constexpr int THREADS = 256;

template <class Activation>
DEVICE void gate(const number* input, number* output, int rows, int width) {
    const int eights = width / 8, index = blockIdx.x * THREADS + threadIdx.x;
    const int row = index / eights, at = index % eights * 8;
    if (row >= rows) return;
    const number* from = input + static_cast<size_t>(row) * 2 * width + at;
    float x[8], y[8];
    read8(x, from);
    read8(y, from + width);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = Activation::of(x[i]) * y[i];
    write8(output + static_cast<size_t>(row) * width + at, x);
}

}  // namespace

#define ENTRY(name, Activation)                                                              \
    KERNEL(THREADS) gate_##name(const number* input, number* output, int rows, int width) {      \
        gate<Activation>(input, output, rows, width);                                        \
    }
FOR_EVERY_ACTIVATION(ENTRY)
#undef ENTRY
