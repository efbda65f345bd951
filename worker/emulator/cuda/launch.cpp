// Every kernel compiled for the host, and one way to launch them all, which is that of cuLaunchKernel: by name, with
// arguments of any type.
#include <memory>
#include <utility>

#include "activation.cuh"
#include "attend.cuh"
#include "gpu.cuh"
#include "norm.cuh"

namespace of_bf16 {
using number = bf16;
#include "kernels.hpp"
namespace attend_file {
#include "attend.cu"
}
}  // namespace of_bf16

namespace of_f16 {
using number = f16;
#include "kernels.hpp"
namespace attend_file {
#include "attend.cu"
}
}  // namespace of_f16

namespace of_f32 {
using number = f32;
#include "kernels.hpp"
}  // namespace of_f32

namespace attend_f32_file {
#include "attend_f32.cu"
}
namespace pick_file {
#include "pick.cu"
}
namespace top_file {
#include "top.cu"
}
namespace quantise_file {
#include "quantise.cu"
}
namespace multiply_file {
#include "multiply.cu"
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

// A kernel for a kind of number has that behind its name.
#define ENTRY(file, name) Kernel<&file::name>::entry(#name),
#define ENTRY_OF(kind, file, name) Kernel<&of_##kind::file::name>::entry(#name "." #kind),
#define ENTRIES_OF_WIDTHS(kind, file, name) \
    ENTRY_OF(kind, file, name##_256) ENTRY_OF(kind, file, name##_512) ENTRY_OF(kind, file, name##_768) \
    ENTRY_OF(kind, file, name##_1024) ENTRY_OF(kind, file, name##_2048)
#define ENTRIES_OF_ACTIVATIONS(kind, file, name) \
    ENTRY_OF(kind, file, name##_identity) ENTRY_OF(kind, file, name##_gelu) ENTRY_OF(kind, file, name##_gelu_tanh) \
    ENTRY_OF(kind, file, name##_silu) ENTRY_OF(kind, file, name##_relu) ENTRY_OF(kind, file, name##_tanh)
#define ENTRIES_OF_HEADS(kind) \
    ENTRY_OF(kind, attend_file, attend_16) ENTRY_OF(kind, attend_file, attend_32) \
    ENTRY_OF(kind, attend_file, attend_48) ENTRY_OF(kind, attend_file, attend_64) \
    ENTRY_OF(kind, attend_file, attend_80) ENTRY_OF(kind, attend_file, attend_96) \
    ENTRY_OF(kind, attend_file, attend_128)
#define ENTRIES_OF(kind) \
    ENTRIES_OF_WIDTHS(kind, embed_file, embed) ENTRIES_OF_WIDTHS(kind, add_norm_file, add_norm) \
    ENTRIES_OF_ACTIVATIONS(kind, activate_file, activate) ENTRIES_OF_ACTIVATIONS(kind, gate_file, gate) \
    ENTRY_OF(kind, rotate_file, rotate) ENTRY_OF(kind, pool_file, pool_number) ENTRY_OF(kind, pool_file, pool_f32)

constexpr Entry ENTRIES[] = {
    ENTRIES_OF(bf16)
    ENTRIES_OF(f16)
    ENTRIES_OF(f32)
    ENTRIES_OF_HEADS(bf16)
    ENTRIES_OF_HEADS(f16)
    ENTRY(attend_f32_file, attend_f32_32)
    ENTRY(attend_f32_file, attend_f32_64)
    ENTRY(attend_f32_file, attend_f32_96)
    ENTRY(attend_f32_file, attend_f32_128)
    ENTRY(pick_file, pick)
    ENTRY(top_file, top)
    ENTRY(quantise_file, quantise)
    ENTRY(multiply_file, multiply_int8_128)
    ENTRY(multiply_file, multiply_int8_64)
    ENTRY(multiply_file, multiply_int8_32)
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
