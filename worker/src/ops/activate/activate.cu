#include "gpu.cuh"

// x[r, l] = activation(x[r, l] + bias[l]), in place on [R, L]; no bias is a null pointer. For what cublasLt cannot do
// behind a product.
//
// grid = R, block = 128
namespace {

struct Identity {
    DEVICE static float of(float x) { return x; }
};

struct Gelu {
    DEVICE static float of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
};

// 0.5 x (1 + tanh u) is x / (1 + e^-2u), which keeps its digits where tanh u is near -1.
struct GeluTanh {
    DEVICE static float of(float x) {
        const float u = 0.79788456080286536f * (x + 0.044715f * x * x * x);
        return x / (1.0f + expf(-2.0f * u));
    }
};

struct Silu {
    DEVICE static float of(float x) { return x / (1.0f + expf(-x)); }
};

struct Relu {
    DEVICE static float of(float x) { return fmaxf(x, 0.0f); }
};

struct Tanh {
    DEVICE static float of(float x) { return tanhf(x); }
};

constexpr int THREADS = 128;

template <class Activation>
DEVICE void activate(bf16* matrix, const bf16* bias, int width) {
    bf16* row = matrix + static_cast<size_t>(blockIdx.x) * width;
    if (width % 8 != 0) {  // then no row but the first need be aligned
        for (int at = threadIdx.x; at < width; at += THREADS) {
            const float shift = bias == nullptr ? 0.0f : widen(load(bias + at));
            store(row + at, narrow(Activation::of(widen(load(row + at)) + shift)));
        }
        return;
    }
    for (int at = static_cast<int>(threadIdx.x) * 8; at < width; at += THREADS * 8) {
        float x[8], shift[8] = {};
        unpack(x, load8(row + at));
        if (bias != nullptr) unpack(shift, load8(bias + at));
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = Activation::of(x[i] + shift[i]);
        store8(row + at, pack(x));
    }
}

}  // namespace

#define ENTRY(name, Activation)                                      \
    KERNEL(THREADS) activate_##name(bf16* matrix, const bf16* bias, int width) { \
        activate<Activation>(matrix, bias, width);                   \
    }
ENTRY(identity, Identity)
ENTRY(gelu, Gelu)
ENTRY(gelu_tanh, GeluTanh)
ENTRY(silu, Silu)
ENTRY(relu, Relu)
ENTRY(tanh, Tanh)
#undef ENTRY
