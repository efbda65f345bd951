// What kernels use of a GPU, under names of our own: memory, kinds of numbers, warp sums and the PTX behind tensor cores
// and asynchronous copies. NVRTC needs no other header. Without NVRTC the same names are the emulator's.
//
// Most kernels are written for a `number`, which is bf16, f16 or f32: their files are compiled for each kind that a model
// is asked for in. They compute in f32 whatever it is.
//
// Kernels reach memory, global and shared, through these functions only. That is what lets the emulator find what is
// out of bounds, misaligned, read too early or written by two.
#pragma once

#ifdef __CUDACC_RTC__

#define DEVICE __device__ __forceinline__
// One block at a time is enough: told nothing, the compiler spills to fit more.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 1)
// Of which two blocks fit side by side.
#define KERNEL_PAIR(threads) extern "C" __global__ void __launch_bounds__(threads, 2)
// An array of the block's, 16-byte aligned.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
// A mistake made on purpose, for the emulator's tests: never on a GPU.
#define PLANTED(mistake) false
#define MINUS_INFINITY __int_as_float(0xff800000)

struct bf16 {
    unsigned short bits;
};

struct f16 {
    unsigned short bits;
};

using f32 = float;

using byte = unsigned char;

#ifdef NUMBER  // what this file is compiled for
using number = NUMBER;
#endif

template <class T>
DEVICE T load(const T* from) {
    return *from;
}

template <class T>
DEVICE void store(T* to, T value) {
    *to = value;
}

// Two values of 16 bits from an address that is a multiple of 4, eight from one of 16.
template <class T>
DEVICE unsigned load2(const T* from) {
    return *reinterpret_cast<const unsigned*>(from);
}

template <class T>
DEVICE void store2(T* to, unsigned pair) {
    *reinterpret_cast<unsigned*>(to) = pair;
}

template <class T>
DEVICE uint4 load8(const T* from) {
    return *reinterpret_cast<const uint4*>(from);
}

template <class T>
DEVICE void store8(T* to, uint4 values) {
    *reinterpret_cast<uint4*>(to) = values;
}

DEVICE float4 load4(const float* from) {
    return *reinterpret_cast<const float4*>(from);
}

DEVICE void store4(float* to, float4 values) {
    *reinterpret_cast<float4*>(to) = values;
}

// Two values of 16 bits, rounded to the nearest, ties to even.
template <class T>
DEVICE unsigned pack2(float low, float high);

template <>
DEVICE unsigned pack2<bf16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <>
DEVICE unsigned pack2<f16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE float widen(f16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}

// 2^x, to two units in the last place; 0 for -∞.
DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// c += a · b over a warp, of values of 16 bits: [16, 16] · [16, 8]. With g = lane / 4 and t = lane % 4, a lane holds
//   a: rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8, each with the next column
//   b: rows 2t, 2t + 8, each with the next row, at column g
//   c: row g at columns 2t, 2t + 1, then row g + 8
template <class T>
DEVICE void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
DEVICE void mma_16x8x16<bf16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
DEVICE void mma_16x8x16<f16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four [8, 8] matrices of values of 16 bits from shared memory: lane 8m + r gives the address of row r of matrix m, a multiple of 16. A lane
// gets row g, columns 2t and 2t + 1 of each.
template <class T>
DEVICE void ldmatrix_x4(unsigned (&matrices)[4], const T* row) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
}

// The same, transposed: a lane gets rows 2t and 2t + 1, column g of each.
template <class T>
DEVICE void ldmatrix_x4_trans(unsigned (&matrices)[4], const T* row) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
}

// Begins to copy 16 bytes into shared memory, or zeros if there is nothing to copy; `from` is not read then.
template <class T>
DEVICE void cp_async16(T* to, const T* from, bool is_there) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}

// Makes the copies begun since the last group the next group of this thread.
DEVICE void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all groups of this thread but the last N.
template <int N>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// c += a · b over a warp: [16, 32] unsigned · [32, 8] signed, exactly. With g = lane / 4 and t = lane % 4, a lane holds
//   a: rows g, g + 8, g, g + 8 at columns 4t, 4t, 4t + 16, 4t + 16, each with the next three
//   b: rows 4t, 4t + 16, each with the next three, at column g
//   c: row g at columns 2t, 2t + 1, then row g + 8
// What ldmatrix_x4 gives of rows of 16 bytes lies as a and b do.
DEVICE void mma_16x8x32(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else
#include "emulator.hpp"
#endif

DEVICE float widen(bf16 x) {
    return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

DEVICE float widen(float x) {
    return x;
}

template <class T>
DEVICE T narrow(float x) {
    return T{static_cast<unsigned short>(pack2<T>(x, 0.0f))};
}

template <>
DEVICE float narrow<float>(float x) {
    return x;
}

// Eight values of a row, from an address that is a multiple of 16.
template <class T>
DEVICE void read8(float (&x)[8], const T* row) {
    const uint4 values = load8(row);
    const unsigned pairs[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = widen(T{static_cast<unsigned short>(pairs[i])});
        x[2 * i + 1] = widen(T{static_cast<unsigned short>(pairs[i] >> 16)});
    }
}

template <>
DEVICE void read8<float>(float (&x)[8], const float* row) {
#pragma unroll
    for (int half = 0; half < 8; half += 4) {
        const float4 values = load4(row + half);
        x[half] = values.x;
        x[half + 1] = values.y;
        x[half + 2] = values.z;
        x[half + 3] = values.w;
    }
}

// Eight values, to an address that is a multiple of 16.
template <class T>
DEVICE void write8(T* row, const float (&x)[8]) {
    store8(row, make_uint4(pack2<T>(x[0], x[1]), pack2<T>(x[2], x[3]), pack2<T>(x[4], x[5]), pack2<T>(x[6], x[7])));
}

template <>
DEVICE void write8<float>(float* row, const float (&x)[8]) {
    store4(row, make_float4(x[0], x[1], x[2], x[3]));
    store4(row + 4, make_float4(x[4], x[5], x[6], x[7]));
}

// Adds eight values of a row to those in registers.
template <class T>
DEVICE void add8(float (&x)[8], const T* row) {
    float other[8];
    read8(other, row);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] += other[i];
}

// Over the warp; every lane gets the sum, and adds in the same order as any other.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

// Over the warp; every lane gets it. What is no number is passed over.
DEVICE float warp_min(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = fminf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}
