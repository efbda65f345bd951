// Threads of control that are switched by hand, each with a stack of its own. x86-64, System V.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sanitizer.hpp"

namespace emulator {

// Leaves one stack, noting where, and goes on where another was left. Twenty times quicker than ucontext, which asks the
// kernel for the signal mask twice.
__attribute__((naked, noinline, no_sanitize("address", "thread", "undefined"))) inline void switch_stacks(
    [[maybe_unused]] void** leave, [[maybe_unused]] void* enter) {
    asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
        "movq %rsp, (%rdi); movq %rsi, %rsp;"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

// A thread of control: where it goes on, and its stack.
struct Fiber {
    void* at = nullptr;
    Context context;
};

// The one that runs, where launches are.
inline thread_local Fiber* current = nullptr;

inline void switch_fibers(Fiber& from, Fiber& to) {
    current = &to;
    void* enter = to.at;
    // From here on sanitizers take this for the other.
    from.context.leave_for(to.context);
    switch_stacks(&from.at, enter);
    from.context.arrive();
}

// While there is one, the thread that made it does what is the emulator's affair.
class Unwatched {
public:
    Unwatched() { current->context.unwatch(); }
    ~Unwatched() { current->context.watch(); }
    Unwatched(const Unwatched&) = delete;
    Unwatched& operator=(const Unwatched&) = delete;
};

// Fibers that have begun nothing yet, with stacks of equal size, each above a page that cannot be touched; and the one that
// runs them.
class Fibers {
public:
    Fiber home{nullptr, Context::own()};

    // Each begins at `entry`, as if it had been called, and must not return.
    Fibers(unsigned count, void (*entry)()) : bytes(count * EACH) {
        void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        memory = mapped == MAP_FAILED ? nullptr : static_cast<char*>(mapped);
        current = &home;
        const Unwatched unwatched;
        fibers.reserve(count);
        for (unsigned i = 0; memory != nullptr && i < count; i++) {
            char* stack = memory + i * EACH;
            mprotect(stack, GUARD, PROT_NONE);
            fibers.push_back({begin(stack + EACH, entry), Context::of(stack + GUARD, EACH - GUARD)});
        }
    }

    Fibers(const Fibers&) = delete;
    Fibers& operator=(const Fibers&) = delete;

    ~Fibers() {
        for (Fiber& fiber : fibers) fiber.context.end(home.context);
        if (memory != nullptr) munmap(memory, bytes);
        current = nullptr;
    }

    bool are_there() const { return memory != nullptr; }

    Fiber& operator[](size_t index) { return fibers[index]; }

private:
    static constexpr size_t GUARD = 4096;
    static constexpr size_t EACH = 64 << 10;

    size_t bytes;
    char* memory;
    std::vector<Fiber> fibers;

    // Where to switch to.
    static void* begin(char* end, void (*entry)()) {
        auto* top = reinterpret_cast<uint64_t*>(end);
        top[-1] = 0;
        top[-2] = reinterpret_cast<uint64_t>(entry);
        for (int saved = 3; saved <= 8; saved++) top[-saved] = 0;
        return top - 8;
    }
};

}  // namespace emulator
