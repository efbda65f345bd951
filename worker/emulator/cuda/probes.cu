// Kernels that break one rule each, for the emulator's own tests. They run nowhere else.
#include "gpu.cuh"

KERNEL(64) probe_barrier_in_branch(unsigned* output) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    store(output + threadIdx.x, 0u);
}

KERNEL(64) probe_absent_lane(float* output) {
    if (threadIdx.x == 40) return;
    store(output + threadIdx.x, __shfl_xor_sync(0xffffffffu, 1.0f, 1));
}

KERNEL(64) probe_past_the_end(const unsigned* input, unsigned* output) {
    store(output + threadIdx.x, load(input + threadIdx.x + 1));
}

KERNEL(64) probe_misaligned(const bf16* input, bf16* output) {
    store8(output + threadIdx.x * 8, load8(input + 4));
}

KERNEL(64) probe_write_to_input(unsigned* input) {
    store(input + threadIdx.x, 0u);
}

KERNEL(64) probe_unwritten(unsigned* output) {
    SHARED(unsigned, words, 64);
    store(output + threadIdx.x, load(words + threadIdx.x));
}

KERNEL(64) probe_write_after_read(unsigned* output) {
    SHARED(unsigned, word, 1);
    if (threadIdx.x == 0) store(word, 1u);
    __syncthreads();
    store(output + threadIdx.x, load(word));
    if (threadIdx.x == 63) store(word, 2u);
}

// Neighbours in a warp exchange: right with a barrier of the warp, wrong without.
KERNEL(64) probe_exchange(unsigned* output, int with_barrier) {
    SHARED(unsigned, words, 64);
    store(words + threadIdx.x, static_cast<unsigned>(threadIdx.x));
    if (with_barrier != 0) __syncwarp();
    store(output + threadIdx.x, load(words + (threadIdx.x ^ 1)));
}

// What follows the emulator lets be, and sanitizers do not: plain accesses, what C++ leaves undefined, and global memory
// that threads share.
KERNEL(64) probe_plain_write(unsigned* output) {
    output[threadIdx.x * 4 + 4] = threadIdx.x;
}

KERNEL(64) probe_plain_shared_write(unsigned* output) {
    SHARED(unsigned, words, 64);
    words[threadIdx.x + 1] = threadIdx.x;
    store(output + threadIdx.x, 0u);
}

KERNEL(64) probe_plain_misaligned(const float* input, float* output) {
    store4(output + threadIdx.x * 4, *reinterpret_cast<const float4*>(input + 1));
}

KERNEL(64) probe_overflow(int* output, int factor) {
    store(output + threadIdx.x, factor * factor);
}

KERNEL(64) probe_shift(unsigned* output) {
    store(output + threadIdx.x, 1u << threadIdx.x);
}

// Threads read what others wrote, in another warp: right with a barrier, wrong without.
KERNEL(64) probe_global_exchange(unsigned* output, int with_barrier) {
    unsigned* own = output + blockIdx.x * 64;
    store(own + threadIdx.x, static_cast<unsigned>(threadIdx.x));
    if (with_barrier != 0) __syncthreads();
    store(output + 128 + blockIdx.x * 64 + threadIdx.x, load(own + (threadIdx.x ^ 32)));
}

// Every block writes the same numbers.
KERNEL(64) probe_blocks_share(unsigned* output) {
    store(output + threadIdx.x, static_cast<unsigned>(blockIdx.x));
}
