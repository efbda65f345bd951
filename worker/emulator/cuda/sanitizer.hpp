// What AddressSanitizer and ThreadSanitizer are told of stacks that are switched by hand, and of what orders threads. All of
// it is nothing in a build without them.
//
// ThreadSanitizer sees what kernels do to global memory, and that only barriers order it: neither the schedule nor the
// order of blocks does. What the emulator does for itself it does not see, nor shared memory, which the emulator watches.
#pragma once
#include <pthread.h>

#include <cstddef>
#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
void __tsan_read_range(void*, size_t);
}
#endif

namespace emulator {

// Memory that nobody may touch until it is opened.
inline void close_memory([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(from, bytes);
#endif
}

inline void open_memory([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(from, bytes);
#endif
}

// The thread of a kernel is seen to read this, by whatever means.
inline void tell_read([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_THREAD__
    __tsan_read_range(const_cast<void*>(from), bytes);
#endif
}

// A stack as sanitizers know it.
class Context {
public:
    // The stack that this is called on.
    static Context own() {
        Context context;
#ifdef __SANITIZE_ADDRESS__
        pthread_attr_t attributes;
        pthread_getattr_np(pthread_self(), &attributes);
        void* memory;
        pthread_attr_getstack(&attributes, &memory, &context.bytes);
        pthread_attr_destroy(&attributes);
        context.memory = memory;
#endif
#ifdef __SANITIZE_THREAD__
        context.fiber = __tsan_get_current_fiber();
#endif
        return context;
    }

    // A new one. What was done before is done before whatever it does.
    static Context of([[maybe_unused]] const void* memory, [[maybe_unused]] size_t bytes) {
        Context context;
#ifdef __SANITIZE_ADDRESS__
        context.memory = memory;
        context.bytes = bytes;
        // Whoever had the memory last may have left frames on it.
        open_memory(memory, bytes);
#endif
#ifdef __SANITIZE_THREAD__
        context.fiber = __tsan_create_fiber(0);
#endif
        return context;
    }

    // Just before this stack is left for another; nothing is ordered by it.
    void leave_for([[maybe_unused]] Context& other) {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_start_switch_fiber(&fake_stack, other.memory, other.bytes);
#endif
#ifdef __SANITIZE_THREAD__
        __tsan_switch_to_fiber(other.fiber, __tsan_switch_to_fiber_no_sync);
#endif
    }

    // Just after it was come to, for the first time or again.
    void arrive() {
#ifdef __SANITIZE_ADDRESS__
        __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
    }

    // On `home`, when nobody comes back to this one, which may have been left anywhere: what it did is done before what
    // `home` does from now on.
    void end([[maybe_unused]] Context& home) {
#ifdef __SANITIZE_THREAD__
        __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
        while (unwatched > 0) watch();
        __tsan_switch_to_fiber(home.fiber, 0);
        __tsan_destroy_fiber(fiber);
#endif
    }

    // What this thread does from here on is the emulator's affair, until it is watched as often again.
    void unwatch() {
#ifdef __SANITIZE_THREAD__
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
        unwatched++;
#endif
    }

    void watch() {
#ifdef __SANITIZE_THREAD__
        unwatched--;
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
    }

private:
#ifdef __SANITIZE_ADDRESS__
    const void* memory = nullptr;
    size_t bytes = 0;
    void* fake_stack = nullptr;
#endif
#ifdef __SANITIZE_THREAD__
    void* fiber = nullptr;
    unsigned unwatched = 0;
#endif
};

// A barrier as it orders threads: what each did before it came is done before what any does after it went.
class Clock {
public:
    void come([[maybe_unused]] unsigned turn) {
#ifdef __SANITIZE_THREAD__
        __tsan_release(&turns[turn % 2]);
#endif
    }

    void go([[maybe_unused]] unsigned turn) {
#ifdef __SANITIZE_THREAD__
        __tsan_acquire(&turns[turn % 2]);
#endif
    }

private:
    // By turns: some may come again before all have gone.
    uint64_t turns[2] = {};
};

}  // namespace emulator
