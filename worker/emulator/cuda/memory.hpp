// What a kernel may touch, and who has: the launch's buffers, and the shared memory of the block that runs.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "sanitizer.hpp"

namespace emulator {

// Where in a kernel something was done.
struct Site {
    const char* file;
    int line;
};

// Who touches memory, and after how many barriers of its block and its warp.
struct Stamp {
    uint32_t thread;
    uint32_t barriers;
    uint32_t warp_barriers;

    unsigned warp() const { return thread / 32; }

    // Whether nothing orders `this` before `later`.
    bool races(const Stamp& later) const {
        if (thread == later.thread || barriers != later.barriers) return false;
        return warp() != later.warp() || warp_barriers == later.warp_barriers;
    }
};

// Memory of a launch, as the kernel was given it.
struct Buffer {
    uintptr_t begin;
    size_t bytes;
    bool writable;
};

class Memory {
public:
    // What a block may take without asking the driver for more.
    static constexpr size_t SHARED_BYTES = 48 << 10;

    std::vector<Buffer> buffers;

    // Another block begins: nothing of the last one's is left. All bits set is no number, as any kind of float.
    void clear_shared() {
        open_memory(shared, sizeof shared);
        memset(shared, 0xff, used);
        close_memory(shared, sizeof shared);
        std::fill(words.begin(), words.begin() + used / 4, Word{});
        arrays.clear();
        used = 0;
    }

    // The block's array of this place in the kernel, the same for all threads; null if there is no room.
    void* array(const void* place, size_t bytes) {
        for (const Array& array : arrays) {
            if (array.place == place) return shared + array.at;
        }
        if (used + bytes > SHARED_BYTES) return nullptr;
        arrays.push_back({place, used, bytes});
        used = (used + bytes + 15) / 16 * 16;
        open_memory(shared + arrays.back().at, bytes);
        return shared + arrays.back().at;
    }

    // What is wrong with touching `bytes` at `address`, or null.
    const char* touch(const void* address, size_t bytes, bool writes, const Stamp& who) {
        const auto at = reinterpret_cast<uintptr_t>(address);
        if (at % bytes != 0) return "is misaligned";
        if (const char* wrong = bounds(at, bytes, writes)) return wrong;
        return is_shared(at) ? (writes ? write(at, bytes, who) : read(at, bytes, who)) : nullptr;
    }

    bool is_shared(const void* address) const {
        return is_shared(reinterpret_cast<uintptr_t>(address));
    }

    bool is_shared(uintptr_t at) const {
        return at - reinterpret_cast<uintptr_t>(shared) < SHARED_BYTES;
    }

    // From here on until `land` these 16 bytes hold nothing anyone may read.
    const char* begin_copy(void* to, const Stamp& who) {
        const auto at = reinterpret_cast<uintptr_t>(to);
        if (!is_shared(at)) return "copies to what is not shared memory";
        if (const char* wrong = touch(to, 16, true, who)) return wrong;
        for (Word& word : span(at, 16)) word.is_pending = true;
        return nullptr;
    }

    void land(void* to, const Stamp& who) {
        for (Word& word : span(reinterpret_cast<uintptr_t>(to), 16)) {
            word.is_pending = false;
            word.writer = who;
        }
    }

private:
    struct Array {
        const void* place;
        size_t at, bytes;
    };

    // Four bytes of shared memory.
    struct Word {
        bool is_written = false, is_read = false, is_pending = false;
        // More than one thread has read it since the block's last barrier.
        bool is_read_by_many = false;
        Stamp writer{}, reader{};
    };

    struct Words {
        Word *first, *last;
        Word* begin() const { return first; }
        Word* end() const { return last; }
    };

    alignas(128) char shared[SHARED_BYTES];
    std::array<Word, SHARED_BYTES / 4> words;
    std::vector<Array> arrays;
    // All of it before the first block.
    size_t used = SHARED_BYTES;

    Words span(uintptr_t at, size_t bytes) {
        const size_t offset = at - reinterpret_cast<uintptr_t>(shared);
        return {&words[offset / 4], &words[0] + (offset + bytes + 3) / 4};
    }

    const char* bounds(uintptr_t at, size_t bytes, bool writes) const {
        if (is_shared(at)) {
            const size_t offset = at - reinterpret_cast<uintptr_t>(shared);
            for (const Array& array : arrays) {
                if (offset >= array.at && offset + bytes <= array.at + array.bytes) return nullptr;
            }
            return "is outside every shared array";
        }
        bool is_known = false;
        for (const Buffer& buffer : buffers) {
            if (at < buffer.begin || at + bytes > buffer.begin + buffer.bytes) continue;
            if (buffer.writable || !writes) return nullptr;
            is_known = true;
        }
        return is_known ? "writes to an input" : "is outside every buffer";
    }

    const char* read(uintptr_t at, size_t bytes, const Stamp& who) {
        for (Word& word : span(at, bytes)) {
            if (word.is_pending) return "reads what is still being copied";
            if (!word.is_written) return "reads shared memory that nobody has written";
            if (word.writer.races(who)) return "reads what another thread wrote with no barrier between";
            word.is_read_by_many = word.is_read && word.reader.barriers == who.barriers &&
                (word.is_read_by_many || word.reader.thread != who.thread);
            word.is_read = true;
            word.reader = who;
        }
        return nullptr;
    }

    const char* write(uintptr_t at, size_t bytes, const Stamp& who) {
        for (Word& word : span(at, bytes)) {
            if (word.is_pending) return "writes where a copy is still to land";
            if (word.is_written && word.writer.races(who)) {
                return "writes what another thread wrote with no barrier between";
            }
            const bool others_read = word.is_read_by_many && word.reader.barriers == who.barriers;
            if (word.is_read && (others_read || word.reader.races(who))) {
                return "writes what another thread read with no barrier between";
            }
            word.is_written = true;
            word.writer = who;
        }
        return nullptr;
    }
};

}  // namespace emulator
