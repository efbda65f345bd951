// One block at a time, one fiber for each of its threads. A thread runs until it has to wait for others; who runs next is
// decided by the launch's seed, in turn, at random, or running ahead: the thread that can go on longest does.
//
// Only barriers order threads. Whoever breaks a rule ends the launch: `fail` goes back to the launcher and the fibers are
// abandoned where they are, which is why kernels hold nothing that must be destroyed.
#pragma once
#include <cstdarg>
#include <deque>
#include <memory>

#include "fiber.hpp"
#include "memory.hpp"

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

struct uint3 {
    unsigned x, y, z;
};

namespace emulator {

constexpr unsigned WARP = 32;

enum class Order { in_turn, at_random, ahead };
enum class State { ready, at_barrier, in_warp, done };

// A cp.async that has not landed.
struct Copy {
    void* to;
    const void* from;
    bool is_there;
    // How many groups this thread had committed before it.
    unsigned group;
};

struct Thread {
    Fiber* fiber;
    uint3 index;
    unsigned id;
    State state;
    // What it last waited for, and where.
    const char* what;
    Site site;
    std::vector<Copy> copies;
    unsigned groups;
};

// What the lanes of a warp do together.
struct Meeting {
    unsigned arrived, mask;
    const char* what;
    Site site;
    void* arguments[WARP];
    // How many __syncwarp there were.
    unsigned barriers;
    Clock clock;
};

struct Machine;
inline thread_local Machine* machine = nullptr;

constexpr uint64_t hash(const char* text) {
    uint64_t sum = 0xcbf29ce484222325;
    for (; *text != 0; text++) sum = (sum ^ static_cast<unsigned char>(*text)) * 0x100000001b3;
    return sum;
}

struct Machine {
    // Runs the kernel once, as the thread that is running.
    using Body = void (*)(const void* arguments);

    const char* kernel;
    dim3 grid, block;
    dim3 at{0, 0, 0};
    uint64_t seed;
    // The mistake made on purpose, by its name's hash.
    uint64_t mistake = 0;
    Memory memory;
    char fault[512] = {};
    Thread* running = nullptr;

    Machine(const char* kernel, dim3 grid, dim3 block, uint64_t seed, Body body, const void* arguments)
        : kernel(kernel), grid(grid), block(block), seed(seed), body(body), arguments(arguments) {}

    // Runs every block; false if one broke a rule, which `fault` then tells.
    bool run() {
        const unsigned count = block.x * block.y * block.z;
        if (count == 0 || count % WARP != 0 || count > 1024) return refuse("blocks of %u threads", count);
        const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
        if (blocks == 0) return refuse("a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z);
        Fibers own(count, [] { machine->run_threads(); });
        if (!own.are_there()) return refuse("no memory for %u stacks", count);
        fibers = &own;
        const Unwatched unwatched;
        random_state = seed * 0x9e3779b97f4a7c15 | 1;
        order = static_cast<Order>(seed % 3);
        threads.resize(count);
        for (uint64_t i = 0; i < blocks && fault[0] == 0; i++) {
            // Nothing may depend on the order of blocks.
            const uint64_t index = seed & 1 ? blocks - 1 - i : i;
            at = {unsigned(index % grid.x), unsigned(index / grid.x % grid.y), unsigned(index / grid.x / grid.y)};
            run_block(static_cast<unsigned>(i));
        }
        return fault[0] == 0;
    }

    [[noreturn]] __attribute__((format(printf, 3, 4))) void fail(Site site, const char* format, ...) {
        const Unwatched unwatched;
        const Thread& thread = *running;
        int length = snprintf(fault, sizeof fault, "%s, block (%u, %u, %u), thread %u, seed %llu, %s:%d: ", kernel, at.x,
            at.y, at.z, thread.id, static_cast<unsigned long long>(seed), name(site.file), site.line);
        va_list values;
        va_start(values, format);
        vsnprintf(fault + length, sizeof fault - length, format, values);
        va_end(values);
        switch_fibers(*running->fiber, fibers->home);
        __builtin_unreachable();
    }

    Stamp stamp() const { return {running->id, barriers, warps[running->id / WARP].barriers}; }

    void touch(const void* address, size_t bytes, bool writes, Site site) {
        const Unwatched unwatched;
        if (const char* wrong = memory.touch(address, bytes, writes, stamp())) {
            fail(site, "%s of %zu bytes %s", writes ? "write" : "read", bytes, wrong);
        }
    }

    unsigned random() {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return static_cast<unsigned>(random_state >> 32);
    }

    // __syncthreads: waits for all threads that have not ended.
    void meet_block(Site site) {
        const unsigned turn = barriers;
        clock->come(turn);
        wait_for_block(site);
        clock->go(turn);
    }

    // An operation of a warp: the last lane to come does it for all.
    void meet_warp(const char* what, unsigned mask, void* argument, void (*act)(void**, unsigned), Site site) {
        const Unwatched unwatched;
        Meeting& meeting = warps[running->id / WARP];
        const unsigned lane = running->id % WARP;
        if ((mask >> lane & 1) == 0) fail(site, "lane %u is not in the mask %#x of its own %s", lane, mask, what);
        if (meeting.arrived == 0) {
            meeting.mask = mask;
            meeting.what = what;
            meeting.site = site;
        } else if (meeting.mask != mask || strcmp(meeting.what, what) != 0 || meeting.site.line != site.line) {
            fail(site, "lanes of a warp part: others are at %s, %s:%d", meeting.what, name(meeting.site.file),
                meeting.site.line);
        }
        meeting.arrived |= 1u << lane;
        meeting.arguments[lane] = argument;
        wait(State::in_warp, what, site);
        if (meeting.arrived == mask) {
            if (act != nullptr) act(meeting.arguments, mask);
            meeting.arrived = 0;
            const unsigned first = running->id - lane;
            for (unsigned other = 0; other < WARP; other++) {
                if (mask >> other & 1) make_ready(first + other);
            }
        }
        next();
    }

    void sync_warp(unsigned mask, Site site) {
        Meeting& meeting = warps[running->id / WARP];
        const unsigned turn = meeting.barriers;
        meeting.clock.come(turn);
        // Counted before anyone goes on.
        meet_warp("__syncwarp", mask, &meeting, [](void** meetings, unsigned mask) {
            static_cast<Meeting*>(meetings[__builtin_ctz(mask)])->barriers++;
        }, site);
        meeting.clock.go(turn);
    }

    // cp.async: lands at once or not before it is waited for, and nobody may rely on either.
    void begin_copy(void* to, const void* from, bool is_there, Site site) {
        const Unwatched unwatched;
        if (is_there) touch(from, 16, false, site);
        if (const char* wrong = memory.begin_copy(to, stamp())) fail(site, "cp.async %s", wrong);
        const Copy copy{to, from, is_there, running->groups};
        if (random() & 1) carry_out(copy);
        running->copies.push_back(copy);
    }

    void wait_copies(unsigned keep) {
        const Unwatched unwatched;
        size_t done = 0;
        std::vector<Copy>& copies = running->copies;
        while (done < copies.size() && copies[done].group + keep < running->groups) {
            carry_out(copies[done]);
            memory.land(copies[done].to, stamp());
            done++;
        }
        copies.erase(copies.begin(), copies.begin() + done);
    }

private:
    Body body;
    const void* arguments;
    Fibers* fibers = nullptr;
    std::vector<Thread> threads;
    std::vector<Meeting> warps;
    std::deque<unsigned> ready;
    unsigned live = 0, arrived = 0;
    uint32_t barriers = 0;
    // The block's barrier. Like those of warps it is made anew for each block: another's orders nothing in this one.
    std::unique_ptr<Clock> clock;
    Site barrier{};
    uint64_t random_state = 1;
    Order order = Order::in_turn;

    template <class... Values>
    bool refuse(const char* format, Values... values) {
        const int length = snprintf(fault, sizeof fault, "%s cannot be launched: ", kernel);
        snprintf(fault + length, sizeof fault - length, format, values...);
        return false;
    }

    static const char* name(const char* path) {
        const char* slash = path == nullptr ? nullptr : strrchr(path, '/');
        return slash == nullptr ? path : slash + 1;
    }

    void run_block(unsigned turn) {
        memory.clear_shared();
        clock = std::make_unique<Clock>();
        warps = std::vector<Meeting>(threads.size() / WARP);
        ready.clear();
        live = static_cast<unsigned>(threads.size());
        arrived = barriers = 0;
        for (unsigned id = 0; id < live; id++) {
            Thread& thread = threads[id];
            // Another thread's each time, so that what two blocks do is seen to be unordered.
            thread.fiber = &(*fibers)[(id + turn) % live];
            thread.index = {id % block.x, id / block.x % block.y, id / block.x / block.y};
            thread.id = id;
            thread.groups = 0;
            thread.copies.clear();
            make_ready(id);
        }
        running = take_next();
        switch_fibers(fibers->home, *running->fiber);
    }

    // A fiber's whole life: one thread of each block.
    [[noreturn]] void run_threads() {
        current->context.arrive();
        for (;;) {
            body(arguments);
            const Unwatched unwatched;
            running->state = State::done;
            running->what = "its end";
            live--;
            if (arrived > 0 && arrived == live) release_barrier();
            next();
        }
    }

    void wait_for_block(Site site) {
        const Unwatched unwatched;
        if (arrived == 0) {
            barrier = site;
        } else if (site.line != barrier.line || strcmp(site.file, barrier.file) != 0) {
            fail(site, "threads wait at different barriers: others are at %s:%d", name(barrier.file), barrier.line);
        }
        arrived++;
        wait(State::at_barrier, "__syncthreads", site);
        if (arrived == live) release_barrier();
        next();
    }

    void wait(State state, const char* what, Site site) {
        running->state = state;
        running->what = what;
        running->site = site;
    }

    void make_ready(unsigned id) {
        threads[id].state = State::ready;
        ready.push_back(id);
    }

    void release_barrier() {
        arrived = 0;
        barriers++;
        for (Thread& thread : threads) {
            if (thread.state == State::at_barrier) make_ready(thread.id);
        }
    }

    Thread* take_next() {
        size_t chosen = 0;
        if (order == Order::at_random) chosen = random() % ready.size();
        if (order == Order::ahead) chosen = ready.size() - 1;
        std::swap(ready[chosen], order == Order::in_turn ? ready.front() : ready.back());
        const unsigned id = order == Order::in_turn ? ready.front() : ready.back();
        order == Order::in_turn ? ready.pop_front() : ready.pop_back();
        return &threads[id];
    }

    // Goes on with whoever can.
    void next() {
        Thread* last = running;
        if (ready.empty()) {
            if (live == 0) {
                switch_fibers(*last->fiber, fibers->home);
                return;
            }
            tell_deadlock();
        }
        running = take_next();
        if (running != last) switch_fibers(*last->fiber, *running->fiber);
    }

    [[noreturn]] void tell_deadlock() {
        char waiting[320] = {};
        size_t length = 0;
        const Thread* told = nullptr;
        for (const Thread& thread : threads) {
            if (told != nullptr && told->state == thread.state && told->site.line == thread.site.line) continue;
            told = &thread;
            if (length + 64 > sizeof waiting) break;
            length += snprintf(waiting + length, sizeof waiting - length, " from %u: %s", thread.id, thread.what);
            if (thread.state != State::done) {
                length += snprintf(waiting + length, sizeof waiting - length, " (%s:%d)", name(thread.site.file),
                    thread.site.line);
            }
        }
        fail(running->site, "no thread can go on;%s", waiting);
    }

    static void carry_out(const Copy& copy) {
        if (copy.is_there) {
            memcpy(copy.to, copy.from, 16);
        } else {
            memset(copy.to, 0, 16);
        }
    }
};

}  // namespace emulator
