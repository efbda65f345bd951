// Functions of one number: what `activate` and `gate` apply.
#pragma once
#include "gpu.cuh"

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

// One entry point for each of them, by its name in C.
#define FOR_EVERY_ACTIVATION(entry)                                                                     \
    entry(identity, Identity) entry(gelu, Gelu) entry(gelu_tanh, GeluTanh) entry(silu, Silu) entry(relu, Relu) \
    entry(tanh, Tanh)
