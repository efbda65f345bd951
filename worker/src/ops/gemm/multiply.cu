#include "activation.cuh"

// output[r, l] = activation(Σ_k x[r, k] · w[l, k] + bias[l]) + residual[r, l], where x and w are bytes that are numbers by
// scales and a minimum: x = s[r] · q + m[r] and w = c[l] · v, so that
//   Σ x w = c[l] · s[r] · Σ q v + m[r] · (c[l] · Σ v)
// of which the first sum is exact in integers, whatever its order, and the second is known beforehand. No bias or residual is
// a null pointer. The residual may be the output.
//
// A block takes a tile of rows and columns and each of its warps a part of that. Left and right come 64 bytes of depth at a
// time, with as many more on their way as there are stages; past the edges are zeros, which add nothing. Sums then go through
// shared memory, as many rows at a time as a warp has, so that a thread has four in a row to finish.
//
// left: [R, K] unsigned, right: [L, K] signed, K a multiple of 16, L of 8
// ranges: [R, 2], s and m; columns: [2, L], c and then c · Σ v; bias: [L]; activation: by number, as `MultiplyInt8` has it
// grid = (tiles of L, tiles of R), block = 32 · warps
namespace {

// Bytes of depth in a stage: two products deep.
constexpr int DEPTH = 64;

// Rows and columns of a block's tile, warps along each, and stages.
template <int ROWS_, int COLUMNS_, int WARPS_DOWN, int WARPS_ACROSS_, int STAGES_>
struct Tile {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_, WARPS_ACROSS = WARPS_ACROSS_;
    static constexpr int THREADS = 32 * WARPS_DOWN * WARPS_ACROSS;
    static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ACROSS;
    // Products of a warp: 16 rows by 8 columns each.
    static constexpr int DOWN = WARP_ROWS / 16, ACROSS = WARP_COLUMNS / 8;
    static constexpr int STAGE = (ROWS + COLUMNS) * DEPTH;
    // A row of sums in shared memory is longer than it need be, so that four rows lie in different banks.
    static constexpr int STRIDE = COLUMNS + 8;
    static_assert(WARP_ROWS * STRIDE * 4 <= STAGES * STAGE);
};

using Large = Tile<128, 128, 2, 4, 3>;
using Middle = Tile<64, 64, 2, 2, 4>;
using Small = Tile<32, 32, 2, 2, 4>;

// Where 16 bytes of a row lie in a stage. Two rows fill all banks; that eight have theirs in different ones, each pair of
// rows has its four pieces in another order.
DEVICE int place(int row, int piece) {
    return row * DEPTH + ((piece ^ (row >> 1 & 3)) << 4);
}

// Where a block's tile begins, and where everything ends.
struct Bounds {
    int row, column;
    int rows, outputs, inputs;
};

// Begins to copy some rows of a matrix [count, K], 64 bytes from `depth` on, into a stage.
template <int ROWS, int THREADS>
DEVICE void copy_rows(byte* to, const byte* matrix, int first, int count, int inputs, int depth) {
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * 4; i += THREADS) {
        const int row = i / 4, piece = i % 4, at = depth + piece * 16;
        const bool is_there = (first + row < count && at < inputs) || PLANTED(multiply_without_zeros);
        const size_t from = is_there ? static_cast<size_t>(first + row) * inputs + at : 0;
        cp_async16(to + place(row, piece), matrix + from, is_there);
    }
}

template <class T>
DEVICE void copy_stage(byte* to, const byte* left, const byte* right, const Bounds& bounds, int depth) {
    if (depth < bounds.inputs) {
        copy_rows<T::ROWS, T::THREADS>(to, left, bounds.row, bounds.rows, bounds.inputs, depth);
        copy_rows<T::COLUMNS, T::THREADS>(
            to + T::ROWS * DEPTH, right, bounds.column, bounds.outputs, bounds.inputs, depth);
    }
    // If need be an empty group, so that waiting for all but some is waiting for the one that is next.
    cp_async_commit();
}

// Adds the products of a stage. `row` and `column` are where the warp's part begins in the tile.
template <class T>
DEVICE void multiply_stage(int (&sums)[T::DOWN][T::ACROSS][4], const byte* stage, int row, int column) {
    const int lane = threadIdx.x & 31;
    const byte* right = stage + T::ROWS * DEPTH;
    row += lane & 15;
    column += (lane >> 4) * 8 + (lane & 7);
#pragma unroll
    for (int piece = 0; piece < DEPTH / 16; piece += 2) {
        unsigned a[T::DOWN][4];
#pragma unroll
        for (int i = 0; i < T::DOWN; i++) ldmatrix_x4(a[i], stage + place(row + 16 * i, piece + (lane >> 4)));
#pragma unroll
        for (int j = 0; j < T::ACROSS; j += 2) {
            unsigned b[4];
            ldmatrix_x4(b, right + place(column + 8 * j, piece + (lane >> 3 & 1)));
#pragma unroll
            for (int i = 0; i < T::DOWN; i++) {
                mma_16x8x32(sums[i][j], a[i], b[0], b[1]);
                mma_16x8x32(sums[i][j + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// Lays the warp's sums down, from its first row on.
template <class T>
DEVICE void lay_down(int* laid, const int (&sums)[T::DOWN][T::ACROSS][4], int column) {
    const int lane = threadIdx.x & 31;
    laid += (lane >> 2) * T::STRIDE + column + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < T::DOWN; i++) {
#pragma unroll
        for (int j = 0; j < T::ACROSS; j++) {
            const auto lay = [&](int row, int first, int second) {
                uint2* to = reinterpret_cast<uint2*>(laid + (16 * i + row) * T::STRIDE + 8 * j);
                store(to, make_uint2(static_cast<unsigned>(first), static_cast<unsigned>(second)));
            };
            lay(0, sums[i][j][0], sums[i][j][1]);
            lay(8, sums[i][j][2], sums[i][j][3]);
        }
    }
}

// What sums become numbers with.
struct Scales {
    const float *ranges, *columns, *bias;
};

// Makes numbers of the sums that are laid down, of rows from `first` on, and writes them out.
template <class T, class Activation>
DEVICE void finish(const int* laid, int first, const Scales& scales, const bf16* residual, bf16* output,
    const Bounds& bounds) {
    constexpr int FOURS = T::COLUMNS / 4;
    static_assert(T::THREADS % FOURS == 0);
    const int column = static_cast<int>(threadIdx.x) % FOURS * 4, at = bounds.column + column;
    if (at >= bounds.outputs) return;
    const float4 nothing = make_float4(0, 0, 0, 0);
    const float4 c = load4(scales.columns + at), sum = load4(scales.columns + bounds.outputs + at);
    const float4 bias = scales.bias == nullptr ? nothing : load4(scales.bias + at);
#pragma unroll 2
    for (int row = threadIdx.x / FOURS; row < T::WARP_ROWS; row += T::THREADS / FOURS) {
        const int r = first + row;
        if (r >= bounds.rows) return;
        const float s = load(scales.ranges + 2 * static_cast<size_t>(r));
        const float m = load(scales.ranges + 2 * static_cast<size_t>(r) + 1);
        const uint4 sums = load(reinterpret_cast<const uint4*>(laid + row * T::STRIDE + column));
        const auto number = [&](unsigned dot, float c, float sum, float bias) {
            return Activation::of(fmaf(static_cast<float>(static_cast<int>(dot)), s * c, fmaf(m, sum, bias)));
        };
        float4 x = make_float4(number(sums.x, c.x, sum.x, bias.x), number(sums.y, c.y, sum.y, bias.y),
            number(sums.z, c.z, sum.z, bias.z), number(sums.w, c.w, sum.w, bias.w));
        const size_t to = static_cast<size_t>(r) * bounds.outputs + at;
        if (residual != nullptr) {
            const uint2 more = load(reinterpret_cast<const uint2*>(residual + to));
            const auto wide = [](unsigned bits) { return widen(bf16{static_cast<unsigned short>(bits)}); };
            x = make_float4(x.x + wide(more.x), x.y + wide(more.x >> 16), x.z + wide(more.y), x.w + wide(more.y >> 16));
        }
        store(reinterpret_cast<uint2*>(output + to), make_uint2(pack2<bf16>(x.x, x.y), pack2<bf16>(x.z, x.w)));
    }
}

template <class T>
DEVICE void multiply(const byte* left, const byte* right, const Scales& scales, const bf16* residual, bf16* output,
    int rows, int outputs, int inputs, int activation) {
    SHARED(byte, shared, T::STAGES * T::STAGE);
    const Bounds bounds{static_cast<int>(blockIdx.y) * T::ROWS, static_cast<int>(blockIdx.x) * T::COLUMNS, rows, outputs,
        inputs};
    const int warp = threadIdx.x / 32;
    const int row = warp / T::WARPS_ACROSS * T::WARP_ROWS, column = warp % T::WARPS_ACROSS * T::WARP_COLUMNS;

    int sums[T::DOWN][T::ACROSS][4] = {};
#pragma unroll
    for (int stage = 0; stage < T::STAGES - 1; stage++) {
        copy_stage<T>(shared + stage * T::STAGE, left, right, bounds, stage * DEPTH);
    }
    int here = 0, there = T::STAGES - 1;
    for (int depth = 0; depth < inputs; depth += DEPTH) {
        PLANTED(multiply_waits_for_the_stage_before) ? cp_async_wait<T::STAGES - 1>() : cp_async_wait<T::STAGES - 2>();
        // All have copied what comes now, and have read what is copied over.
        if (!PLANTED(multiply_reads_before_all_have_copied)) __syncthreads();
        copy_stage<T>(shared + there * T::STAGE, left, right, bounds, depth + (T::STAGES - 1) * DEPTH);
        multiply_stage<T>(sums, shared + here * T::STAGE, row, column);
        here = here + 1 == T::STAGES ? 0 : here + 1;
        there = there + 1 == T::STAGES ? 0 : there + 1;
    }

    cp_async_wait<0>();
    int* laid = reinterpret_cast<int*>(shared);
    for (int first = 0; first < T::ROWS && bounds.row + first < rows; first += T::WARP_ROWS) {
        // All have read what is written over.
        if (!PLANTED(multiply_lays_down_before_all_have_read)) __syncthreads();
        if (row == first) lay_down<T>(laid, sums, column);
        if (!PLANTED(multiply_finishes_before_all_have_laid_down)) __syncthreads();
        const int r = bounds.row + first;
        switch (activation) {
            case 1: finish<T, Gelu>(laid, r, scales, residual, output, bounds); break;
            case 2: finish<T, GeluTanh>(laid, r, scales, residual, output, bounds); break;
            case 3: finish<T, Silu>(laid, r, scales, residual, output, bounds); break;
            case 4: finish<T, Relu>(laid, r, scales, residual, output, bounds); break;
            case 5: finish<T, Tanh>(laid, r, scales, residual, output, bounds); break;
            default: finish<T, Identity>(laid, r, scales, residual, output, bounds);
        }
    }
}

}  // namespace

#define ENTRY(name, Tile)                                                                                           \
    KERNEL_PAIR(Tile::THREADS)                                                                                      \
    multiply_int8_##name(const byte* left, const float* ranges, const byte* right, const float* columns,            \
        const float* bias, const bf16* residual, bf16* output, int rows, int outputs, int inputs, int activation) { \
        multiply<Tile>(                                                                                             \
            left, right, Scales{ranges, columns, bias}, residual, output, rows, outputs, inputs, activation);       \
    }
ENTRY(128, Large)
ENTRY(64, Middle)
ENTRY(32, Small)
#undef ENTRY
