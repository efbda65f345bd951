// Every kernel compiled for the host, and one way to launch them all, which is that of cuLaunchKernel: by name, with
// arguments of any type.
#include <memory>
#include <utility>

#include "activation.cuh"
#include "gpu.cuh"
#include "norm.cuh"

// Names that are a file's own stay apart.
namespace embed_file {
#include "embed.cu"
}
namespace add_norm_file {
#include "add_norm.cu"
}
namespace attend_file {
#include "attend.cu"
}
namespace activate_file {
#include "activate.cu"
}
namespace gate_file {
#include "gate.cu"
}
namespace rotate_file {
#include "rotate.cu"
}
namespace pool_file {
#include "pool.cu"
}
namespace pick_file {
#include "pick.cu"
}
namespace top_file {
#include "top.cu"
}
namespace probes_file {
#include "probes.cu"
}

namespace {

// As the Rust side lays it out.
enum class Kind : uint32_t { none, input, output, integer, real };

struct Argument {
    Kind kind;
    uint32_t bits;
    void* pointer;
    size_t bytes;
};

template <class T>
struct Taken;

template <class T>
struct Taken<T*> {
    static bool fits(const Argument& argument) { return argument.kind <= Kind::output; }
    static T* from(const Argument& argument) { return static_cast<T*>(argument.pointer); }
};

template <>
struct Taken<int> {
    static bool fits(const Argument& argument) { return argument.kind == Kind::integer; }
    static int from(const Argument& argument) { return static_cast<int>(argument.bits); }
};

template <>
struct Taken<float> {
    static bool fits(const Argument& argument) { return argument.kind == Kind::real; }
    static float from(const Argument& argument) { return __uint_as_float(argument.bits); }
};

struct Entry {
    const char* name;
    size_t count;
    bool (*fits)(const Argument*);
    void (*run)(const void*);
};

template <auto kernel>
struct Kernel;

template <class... T, void (*kernel)(T...)>
struct Kernel<kernel> {
    template <size_t... i>
    static bool fits_each(const Argument* arguments, std::index_sequence<i...>) {
        return (Taken<T>::fits(arguments[i]) && ...);
    }

    template <size_t... i>
    static void run_with(const Argument* arguments, std::index_sequence<i...>) {
        kernel(Taken<T>::from(arguments[i])...);
    }

    static constexpr Entry entry(const char* name) {
        return {name, sizeof...(T),
            [](const Argument* arguments) { return fits_each(arguments, std::index_sequence_for<T...>{}); },
            [](const void* arguments) {
                run_with(static_cast<const Argument*>(arguments), std::index_sequence_for<T...>{});
            }};
    }
};

#define ENTRY(file, name) Kernel<&file::name>::entry(#name),
#define ENTRIES_OF_WIDTHS(file, name) \
    ENTRY(file, name##_256) ENTRY(file, name##_512) ENTRY(file, name##_768) \
    ENTRY(file, name##_1024) ENTRY(file, name##_2048)
#define ENTRIES_OF_ACTIVATIONS(file, name) \
    ENTRY(file, name##_identity) ENTRY(file, name##_gelu) ENTRY(file, name##_gelu_tanh) \
    ENTRY(file, name##_silu) ENTRY(file, name##_relu) ENTRY(file, name##_tanh)

constexpr Entry ENTRIES[] = {
    ENTRIES_OF_WIDTHS(embed_file, embed)
    ENTRIES_OF_WIDTHS(add_norm_file, add_norm)
    ENTRY(attend_file, attend_16)
    ENTRY(attend_file, attend_32)
    ENTRY(attend_file, attend_48)
    ENTRY(attend_file, attend_64)
    ENTRY(attend_file, attend_80)
    ENTRY(attend_file, attend_96)
    ENTRY(attend_file, attend_128)
    ENTRIES_OF_ACTIVATIONS(activate_file, activate)
    ENTRIES_OF_ACTIVATIONS(gate_file, gate)
    ENTRY(rotate_file, rotate)
    ENTRY(pool_file, pool_bf16)
    ENTRY(pool_file, pool_f32)
    ENTRY(pick_file, pick)
    ENTRY(top_file, top)
    ENTRY(probes_file, probe_barrier_in_branch)
    ENTRY(probes_file, probe_absent_lane)
    ENTRY(probes_file, probe_past_the_end)
    ENTRY(probes_file, probe_misaligned)
    ENTRY(probes_file, probe_write_to_input)
    ENTRY(probes_file, probe_unwritten)
    ENTRY(probes_file, probe_write_after_read)
    ENTRY(probes_file, probe_exchange)
    ENTRY(probes_file, probe_plain_write)
    ENTRY(probes_file, probe_plain_shared_write)
    ENTRY(probes_file, probe_plain_misaligned)
    ENTRY(probes_file, probe_overflow)
    ENTRY(probes_file, probe_shift)
    ENTRY(probes_file, probe_global_exchange)
    ENTRY(probes_file, probe_blocks_share)
};

}  // namespace

// 0, or 1 with what went wrong in `fault`, ended by a zero.
extern "C" int shoal_emulator_launch(const char* kernel, const unsigned* grid, unsigned block, const Argument* arguments,
    size_t count, uint64_t seed, const char* mistake, char* fault, size_t fault_bytes) {
    const Entry* found = nullptr;
    for (const Entry& entry : ENTRIES) {
        if (strcmp(entry.name, kernel) == 0) found = &entry;
    }
    if (found == nullptr) {
        snprintf(fault, fault_bytes, "there is no kernel %s", kernel);
        return 1;
    }
    if (found->count != count || !found->fits(arguments)) {
        snprintf(fault, fault_bytes, "%s takes %zu arguments, not these %zu", kernel, found->count, count);
        return 1;
    }
    // Too large for some stacks.
    const auto machine = std::make_unique<emulator::Machine>(
        kernel, dim3{grid[0], grid[1], grid[2]}, dim3{block, 1, 1}, seed, found->run, arguments);
    machine->mistake = emulator::hash(mistake);
    for (size_t i = 0; i < count; i++) {
        if (arguments[i].kind == Kind::input || arguments[i].kind == Kind::output) {
            machine->memory.buffers.push_back({reinterpret_cast<uintptr_t>(arguments[i].pointer), arguments[i].bytes,
                arguments[i].kind == Kind::output});
        }
    }
    emulator::machine = machine.get();
    const bool is_fine = machine->run();
    emulator::machine = nullptr;
    if (!is_fine) snprintf(fault, fault_bytes, "%s", machine->fault);
    return is_fine ? 0 : 1;
}
