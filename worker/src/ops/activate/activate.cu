#include "activation.cuh"

// x[r, l] = activation(x[r, l] + bias[l]) + residual[r, l], in place on [R, L]; no bias or residual is a null pointer.
// For what cublasLt cannot do behind a product.
//
// grid = R, block = 128
namespace {

constexpr int THREADS = 128;

template <class Activation>
DEVICE void activate(number* matrix, const number* bias, const number* residual, int width) {
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    number* row = matrix + start;
    if (residual != nullptr) residual += start;
    if (width % 8 != 0) {  // then no row but the first need be aligned
        for (int at = threadIdx.x; at < width; at += THREADS) {
            const float shift = bias == nullptr ? 0.0f : widen(load(bias + at));
            const float more = residual == nullptr ? 0.0f : widen(load(residual + at));
            store(row + at, narrow<number>(Activation::of(widen(load(row + at)) + shift) + more));
        }
        return;
    }
    for (int at = static_cast<int>(threadIdx.x) * 8; at < width; at += THREADS * 8) {
        float x[8];
        read8(x, row + at);
        if (bias != nullptr) add8(x, bias + at);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = Activation::of(x[i]);
        if (residual != nullptr) add8(x, residual + at);
        write8(row + at, x);
    }
}

}  // namespace

#define ENTRY(name, Activation)                                                                              \
    KERNEL(THREADS) activate_##name(number* matrix, const number* bias, const number* residual, int width) {       \
        activate<Activation>(matrix, bias, residual, width);                                                 \
    }
FOR_EVERY_ACTIVATION(ENTRY)
#undef ENTRY
