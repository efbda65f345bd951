#include "attend.cuh"

// output[i, h] = Σ_j softmax_j(scale · q[i, h] · k[j, h]) v[j, h] over the tokens j of i's own sequence that stand at most
// `before` before it or `after` behind it. Rows of `qkv` [T, (heads + 2 · heads / sharing) · D] are queries, keys and
// values, head after head; `sharing` heads of queries, side by side, look at the same keys and values. Output
// [T, heads · D].
//
// A block takes one tile of the list: queries `first..first + 64` of the sequence `begin..end` of the batch, for one
// head; a tile that ends where it begins is none. Each of its warps takes 16 of the queries. Keys and values come some
// at a time, the next ones copied while these are computed with; those that no query of the tile sees do not come.
// Softmax is online: what is summed so far is scaled down whenever a larger score is met. A row's sums depend on its
// sequence alone: keys come in pieces that are counted from where it begins, and a key that is not seen weighs nothing.
//
// tiles: [·, 3], begin, end and first; `scale` has log₂ e in it, so that powers are of 2
// grid = (tiles, heads), block = 128
namespace {

constexpr int THREADS = 128;
constexpr int QUERIES = 64;

// Keys and values of a stage. Of wider heads there are fewer: two stages must fit into 48 KiB.
template <int D>
constexpr int KEYS = D <= 80 ? 64 : 32;

// A row in shared memory is 16 bytes longer than it need be, so that eight rows lie in different banks.
template <int D>
constexpr int STRIDE = D + 8;

// Begins to copy the keys and values `first..first + KEYS<D>` of a sequence; past its end are zeros.
template <int D>
DEVICE void copy_tile(number* keys, number* values, const Rows<number>& rows, int first) {
    for (int i = threadIdx.x; i < KEYS<D> * D / 8; i += THREADS) {
        const int row = i / (D / 8), at = i % (D / 8) * 8;
        const bool is_there = first + row < rows.length;
        const size_t from = (is_there ? first + row : 0) * rows.width + at;
        cp_async16(keys + row * STRIDE<D> + at, rows.keys + from, is_there);
        cp_async16(values + row * STRIDE<D> + at, rows.values + from, is_there);
    }
    cp_async_commit();
}

// The warp's 16 queries as operands of products; past the sequence's end they are 0.
template <int D>
DEVICE void load_queries(unsigned (&queries)[D / 16][4], const Rows<number>& rows, int row) {
    const int pair = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = row + (i & 1) * 8, at = k * 16 + (i >> 1) * 8 + pair;
            queries[k][i] = r < rows.length ? load2(rows.queries + r * rows.width + at) : 0u;
        }
    }
}

// Products of 16 queries with a tile of keys.
template <int D>
DEVICE void score(float (&scores)[KEYS<D> / 8][4], const unsigned (&queries)[D / 16][4], const number* keys) {
    const int lane = threadIdx.x & 31;
    const number* row = keys + ((lane >> 4) * 8 + (lane & 7)) * STRIDE<D> + ((lane >> 3) & 1) * 8;
#pragma unroll
    for (int n = 0; n < KEYS<D> / 8; n += 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = scores[n + 1][i] = 0;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            unsigned b[4];
            ldmatrix_x4(b, row + n * 8 * STRIDE<D> + k * 16);
            mma_16x8x16<number>(scores[n], queries[k], b[0], b[1]);
            mma_16x8x16<number>(scores[n + 1], queries[k], b[2], b[3]);
        }
    }
}

template <int N>
DEVICE void scale_all(float (&scores)[N][4], float scale) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] *= scale;
    }
}

// Scales the scores of the keys from `first` on, and makes those that their row does not see -∞. A thread's second row is
// 8 behind its first.
template <int N>
DEVICE void scale_and_mask(float (&scores)[N][4], float scale, int first, const Seen (&seen)[2]) {
    first += (threadIdx.x & 3) * 2;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const bool is_seen = seen[i >> 1].has(first + n * 8 + (i & 1)) || PLANTED(attend_without_mask);
            scores[n][i] = is_seen ? scores[n][i] * scale : MINUS_INFINITY;
        }
    }
}

// Softmax of two rows, so far. A quad of lanes shares each row.
struct Softmax {
    float largest[2];
    float total[2] = {0, 0};

    DEVICE Softmax() {
        largest[0] = largest[1] = PLANTED(attend_begins_at_minus_infinity) ? MINUS_INFINITY : LEAST;
    }

    // Makes scores powers relative to the largest, and says how much less those before them are worth now.
    template <int N>
    DEVICE void update(float (&scores)[N][4], float (&decay)[2]) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float most = largest[row];
#pragma unroll
            for (int n = 0; n < N; n++) most = fmaxf(most, fmaxf(scores[n][2 * row], scores[n][2 * row + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            decay[row] = exp2_approx(largest[row] - most);
            largest[row] = most;
            total[row] *= decay[row];
#pragma unroll
            for (int n = 0; n < N; n++) {
                scores[n][2 * row] = exp2_approx(scores[n][2 * row] - most);
                scores[n][2 * row + 1] = exp2_approx(scores[n][2 * row + 1] - most);
                total[row] += scores[n][2 * row] + scores[n][2 * row + 1];
            }
        }
    }

    // 1 / Σ for each row.
    DEVICE void finish(float (&inverse)[2]) const {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float sum = total[row] + __shfl_xor_sync(0xffffffffu, total[row], 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            inverse[row] = 1.0f / sum;
        }
    }
};

// Scales what is summed so far and adds the values by their weights. Scores lie as the left operand of products does.
template <int D>
DEVICE void weigh(
    float (&sums)[D / 8][4], const float (&decay)[2], const float (&weights)[KEYS<D> / 8][4], const number* values) {
    const int lane = threadIdx.x & 31;
    const number* row = values + (lane & 15) * STRIDE<D> + (lane >> 4) * 8;
#pragma unroll
    for (int d = 0; d < D / 8; d++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[d][i] *= decay[i >> 1];
    }
#pragma unroll
    for (int k = 0; k < KEYS<D> / 16; k++) {
        const float(&first)[4] = weights[2 * k], (&second)[4] = weights[2 * k + 1];
        const unsigned a[4] = {pack2<number>(first[0], first[1]), pack2<number>(first[2], first[3]), pack2<number>(second[0], second[1]),
            pack2<number>(second[2], second[3])};
#pragma unroll
        for (int d = 0; d < D / 8; d += 2) {
            unsigned b[4];
            ldmatrix_x4_trans(b, row + k * 16 * STRIDE<D> + d * 8);
            mma_16x8x16<number>(sums[d], a, b[0], b[1]);
            mma_16x8x16<number>(sums[d + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
DEVICE void attend(const number* qkv, const unsigned* tiles, number* output, int heads, int sharing, int before, int after,
    float scale) {
    SHARED(number, keys, 2 * KEYS<D> * STRIDE<D>);
    SHARED(number, values, 2 * KEYS<D> * STRIDE<D>);
    const unsigned* tile = tiles + blockIdx.x * 3;
    const int begin = load(tile), length = load(tile + 1) - begin, query = load(tile + 2);
    if (length == 0) return;
    const Rows<number> rows(qkv, begin, length, heads, sharing, D);
    const int lane = threadIdx.x & 31, warp_row = query + threadIdx.x / 32 * 16, row = warp_row + lane / 4;
    const auto seen_by = [&](int row) { return Seen(row, before, after, length); };
    const Seen seen[2] = {seen_by(row), seen_by(row + 8)};
    const Seen first_row = seen_by(warp_row), last_row = seen_by(warp_row + 15);

    unsigned queries[D / 16][4];
    load_queries<D>(queries, rows, row);
    float sums[D / 8][4] = {};
    Softmax softmax;
    const int late = PLANTED(attend_begins_a_tile_late) ? KEYS<D> : 0;
    const int from = max(query - before + late, 0) / KEYS<D> * KEYS<D>, to = min(query + QUERIES + after, length);
    copy_tile<D>(keys, values, rows, from);
    for (int first = from, stage = 0; first < to; first += KEYS<D>, stage ^= 1) {
        const int here = stage * KEYS<D> * STRIDE<D>, there = (stage ^ 1) * KEYS<D> * STRIDE<D>;
        if (first + KEYS<D> < to) {
            copy_tile<D>(keys + there, values + there, rows, first + KEYS<D>);
        } else {
            cp_async_commit();  // an empty group, so that waiting for all but one is waiting for this tile
        }
        PLANTED(attend_waits_for_the_tile_before) ? cp_async_wait<2>() : cp_async_wait<1>();
        if (!PLANTED(attend_reads_before_all_have_copied)) __syncthreads();

        float scores[KEYS<D> / 8][4], decay[2];
        score<D>(scores, queries, keys + here);
        if (first_row.has(first + KEYS<D> - 1) && last_row.has(first)) {
            scale_all(scores, scale);
        } else {
            scale_and_mask(scores, scale, first, seen);
        }
        softmax.update(scores, decay);
        weigh<D>(sums, decay, scores, values + here);
        if (!PLANTED(attend_copies_before_all_have_read)) __syncthreads();
    }

    float inverse[2];
    softmax.finish(inverse);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = row + half * 8;
        if (r >= length) continue;
        number* to = output + (static_cast<size_t>(begin + r) * heads + blockIdx.y) * D + (lane & 3) * 2;
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            store2(to + d * 8, pack2<number>(sums[d][2 * half] * inverse[half], sums[d][2 * half + 1] * inverse[half]));
        }
    }
}

}  // namespace

#define ENTRY(width)                                                                                             \
    KERNEL(THREADS)                                                                                              \
    attend_##width(const number* qkv, const unsigned* tiles, number* output, int heads, int sharing, int before,     \
        int after, float scale) {                                                                                \
        attend<width>(qkv, tiles, output, heads, sharing, before, after, scale);                                 \
    }
ENTRY(16)
ENTRY(32)
ENTRY(48)
ENTRY(64)
ENTRY(80)
ENTRY(96)
ENTRY(128)
#undef ENTRY
