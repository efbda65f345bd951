// The names of gpu.cuh and of CUDA that kernels use, for the host.
#pragma once
#include <cmath>

#include "machine.hpp"

// Where a function was called from, as its last parameter.
#define CALLER emulator::Site site = {__builtin_FILE(), __builtin_LINE()}

#define DEVICE inline
#define KERNEL(threads) void
#define KERNEL_PAIR(threads) void
#define SHARED(type, name, count) \
    type* const name = emulator::shared<type>([] { static char place; return &place; }(), count)
#define PLANTED(mistake) emulator::is_planted<emulator::hash(#mistake)>()
#define MINUS_INFINITY (-__builtin_inff())

#define threadIdx (emulator::machine->running->index)
#define blockIdx (emulator::machine->at)
#define blockDim (emulator::machine->block)
#define gridDim (emulator::machine->grid)

struct bf16 {
    unsigned short bits;
};

struct f16 {
    unsigned short bits;
};

using f32 = float;

using byte = unsigned char;

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}

inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline int __ffs(int x) {
    return __builtin_ffs(x);
}

inline int min(int x, int y) {
    return x < y ? x : y;
}

inline int max(int x, int y) {
    return x < y ? y : x;
}

inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}

namespace emulator {

template <class T>
T* shared(const void* place, size_t count, CALLER) {
    const Unwatched unwatched;
    void* array = machine->memory.array(place, count * sizeof(T));
    if (array == nullptr) machine->fail(site, "shared arrays are larger than %zu bytes", Memory::SHARED_BYTES);
    return static_cast<T*>(array);
}

template <uint64_t MISTAKE>
bool is_planted() {
    return machine->mistake == MISTAKE;
}

template <class T>
T read(const void* from, Site site) {
    machine->touch(from, sizeof(T), false, site);
    T value;
    if (machine->memory.is_shared(from)) {
        const Unwatched unwatched;
        memcpy(&value, from, sizeof(T));
    } else {
        memcpy(&value, from, sizeof(T));
    }
    return value;
}

template <class T>
void write(void* to, const T& value, Site site) {
    machine->touch(to, sizeof(T), true, site);
    if (machine->memory.is_shared(to)) {
        const Unwatched unwatched;
        memcpy(to, &value, sizeof(T));
    } else {
        memcpy(to, &value, sizeof(T));
    }
}

inline unsigned lane() {
    return machine->running->id % WARP;
}

}  // namespace emulator

template <class T>
T load(const T* from, CALLER) {
    return emulator::read<T>(from, site);
}

template <class T>
void store(T* to, T value, CALLER) {
    emulator::write(to, value, site);
}

template <class T>
unsigned load2(const T* from, CALLER) {
    return emulator::read<unsigned>(from, site);
}

template <class T>
void store2(T* to, unsigned pair, CALLER) {
    emulator::write(to, pair, site);
}

template <class T>
uint4 load8(const T* from, CALLER) {
    return emulator::read<uint4>(from, site);
}

template <class T>
void store8(T* to, uint4 values, CALLER) {
    emulator::write(to, values, site);
}

inline float4 load4(const float* from, CALLER) {
    return emulator::read<float4>(from, site);
}

inline void store4(float* to, float4 values, CALLER) {
    emulator::write(to, values, site);
}

namespace emulator {

// Rounded to the nearest, ties to even; what is no number has the bits that PTX gives it.
inline unsigned round(bf16, float x) {
    const unsigned bits = __float_as_uint(x);
    return x != x ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline unsigned round(f16, float x) {
    const unsigned bits = __float_as_uint(x), size = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    if (x != x) return 0x7fffu;
    if (size >= 0x477ff000u) return sign | 0x7c00u;  // nearer to 2^16 than to the largest number
    // Below 2^-14 they are multiples of 2^-24.
    if (size < 0x38800000u) return sign | static_cast<unsigned>(lrintf(fabsf(x) * 0x1p24f));
    return sign | (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
}

}  // namespace emulator

template <class T>
unsigned pack2(float low, float high) {
    return emulator::round(T{}, low) | emulator::round(T{}, high) << 16;
}

inline float widen(f16 x) {
    const unsigned sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, rest = x.bits & 0x3ffu;
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(static_cast<float>(rest) * 0x1p-24f));
    const unsigned wide = exponent == 31 ? 255 : exponent + 112;
    return __uint_as_float(sign | wide << 23 | rest << 13);
}

inline float exp2_approx(float x) {
    return exp2f(x);
}

inline void __syncthreads(CALLER) {
    emulator::machine->meet_block(site);
}

inline void __syncwarp(unsigned mask = ~0u, CALLER) {
    emulator::machine->sync_warp(mask, site);
}

namespace emulator {

// What the lane `from` gives.
template <class T>
T exchange(const char* what, unsigned mask, T value, unsigned from, Site site) {
    struct Exchange {
        T given, taken;
        unsigned from;
    };
    Exchange exchange{value, value, from};
    machine->meet_warp(what, mask, &exchange, [](void** lanes, unsigned mask) {
        for (unsigned lane = 0; lane < WARP; lane++) {
            if ((mask >> lane & 1) == 0) continue;
            auto* own = static_cast<Exchange*>(lanes[lane]);
            // From a lane outside the mask comes anything: all bits set is no number.
            memset(&own->taken, 0xff, sizeof(T));
            if (mask >> own->from & 1) own->taken = static_cast<Exchange*>(lanes[own->from])->given;
        }
    }, site);
    return exchange.taken;
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int from, CALLER) {
    return emulator::exchange("__shfl_sync", mask, value, from & 31, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, CALLER) {
    const unsigned lane = emulator::lane();
    return emulator::exchange("__shfl_up_sync", mask, value, lane < distance ? lane : lane - distance, site);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance, CALLER) {
    return emulator::exchange("__shfl_xor_sync", mask, value, emulator::lane() ^ distance, site);
}

inline unsigned __ballot_sync(unsigned mask, bool vote, CALLER) {
    struct Ballot {
        bool vote;
        unsigned votes;
    };
    Ballot ballot{vote, 0};
    emulator::machine->meet_warp("__ballot_sync", mask, &ballot, [](void** lanes, unsigned mask) {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < emulator::WARP; lane++) {
            if (mask >> lane & 1) votes |= unsigned{static_cast<Ballot*>(lanes[lane])->vote} << lane;
        }
        for (unsigned lane = 0; lane < emulator::WARP; lane++) {
            if (mask >> lane & 1) static_cast<Ballot*>(lanes[lane])->votes = votes;
        }
    }, site);
    return ballot.votes;
}

inline float widen(bf16 x);

// Fragments lie in lanes as gpu.cuh says. Products are summed in rising order of k, which tensor cores do not promise.
template <class T>
void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, CALLER) {
    struct Fragments {
        float* c;
        const unsigned* a;
        unsigned b[2];
    };
    Fragments fragments{c, a, {b0, b1}};
    emulator::machine->meet_warp("mma", ~0u, &fragments, [](void** lanes, unsigned) {
        const auto low = [](unsigned pair) { return widen(T{static_cast<unsigned short>(pair)}); };
        const auto high = [](unsigned pair) { return widen(T{static_cast<unsigned short>(pair >> 16)}); };
        float left[16][16], right[16][8];
        for (int lane = 0; lane < 32; lane++) {
            const auto* own = static_cast<Fragments*>(lanes[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++) {
                float* to = &left[g + (i & 1) * 8][2 * t + (i >> 1) * 8];
                to[0] = low(own->a[i]);
                to[1] = high(own->a[i]);
            }
            for (int i = 0; i < 2; i++) {
                right[2 * t + 8 * i][g] = low(own->b[i]);
                right[2 * t + 8 * i + 1][g] = high(own->b[i]);
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            const auto* own = static_cast<Fragments*>(lanes[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++) {
                float sum = own->c[i];
                for (int k = 0; k < 16; k++) sum += left[g + (i >> 1) * 8][k] * right[k][2 * t + (i & 1)];
                own->c[i] = sum;
            }
        }
    }, site);
}

// The same of bytes, by unsigned ones, into integers.
inline void mma_16x8x32(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, CALLER) {
    struct Fragments {
        int* c;
        const unsigned* a;
        unsigned b[2];
    };
    Fragments fragments{c, a, {b0, b1}};
    emulator::machine->meet_warp("mma of bytes", ~0u, &fragments, [](void** lanes, unsigned) {
        int left[16][32], right[32][8];
        for (int lane = 0; lane < 32; lane++) {
            const auto* own = static_cast<Fragments*>(lanes[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int at = 0; at < 4; at++) {
                const auto of = [at](unsigned bytes) { return static_cast<byte>(bytes >> 8 * at); };
                for (int i = 0; i < 4; i++) left[g + (i & 1) * 8][4 * t + (i >> 1) * 16 + at] = of(own->a[i]);
                for (int i = 0; i < 2; i++) right[4 * t + 16 * i + at][g] = static_cast<signed char>(of(own->b[i]));
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            const auto* own = static_cast<Fragments*>(lanes[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; i++) {
                for (int k = 0; k < 32; k++) own->c[i] += left[g + (i >> 1) * 8][k] * right[k][2 * t + (i & 1)];
            }
        }
    }, site);
}

namespace emulator {

// All lanes' row addresses in; the matrices, as stored, out to every lane.
inline void gather_matrices(unsigned short (&matrices)[4][8][8], const char* what, const void* row, Site site) {
    struct Request {
        const void* row;
        unsigned short (*matrices)[8][8];
    };
    if (!machine->memory.is_shared(row)) machine->fail(site, "%s reads no shared memory", what);
    machine->touch(row, 16, false, site);
    Request request{row, matrices};
    machine->meet_warp(what, ~0u, &request, [](void** lanes, unsigned) {
        for (int reader = 0; reader < 32; reader++) {
            auto* to = static_cast<Request*>(lanes[reader])->matrices;
            for (int lane = 0; lane < 32; lane++) {
                memcpy(to[lane / 8][lane % 8], static_cast<Request*>(lanes[lane])->row, 16);
            }
        }
    }, site);
}

}  // namespace emulator

template <class T>
void ldmatrix_x4(unsigned (&registers)[4], const T* row, CALLER) {
    unsigned short matrices[4][8][8];
    emulator::gather_matrices(matrices, "ldmatrix", row, site);
    const unsigned g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int m = 0; m < 4; m++) {
        registers[m] = matrices[m][g][2 * t] | unsigned{matrices[m][g][2 * t + 1]} << 16;
    }
}

template <class T>
void ldmatrix_x4_trans(unsigned (&registers)[4], const T* row, CALLER) {
    unsigned short matrices[4][8][8];
    emulator::gather_matrices(matrices, "ldmatrix.trans", row, site);
    const unsigned g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int m = 0; m < 4; m++) {
        registers[m] = matrices[m][2 * t][g] | unsigned{matrices[m][2 * t + 1][g]} << 16;
    }
}

template <class T>
void cp_async16(T* to, const T* from, bool is_there, CALLER) {
    emulator::machine->begin_copy(to, from, is_there, site);
    if (is_there) emulator::tell_read(from, 16);
}

inline void cp_async_commit() {
    emulator::machine->running->groups++;
}

template <int N>
void cp_async_wait() {
    emulator::machine->wait_copies(N);
}
