#include "attend.cuh"

// What attend.cu computes, for numbers that tensor cores would round: the same rows and list of tiles, heads D wide, and
// products of f32.
//
// A block takes half a tile, 32 queries of one head, and each of its warps eight of them. Keys come 32 at a time, a lane
// has one, and its scores with the warp's queries; then the values come to where the keys were, and a lane has some of
// their columns. Softmax is online, and a row's sums depend on its sequence alone, as in attend.cu.
//
// D is a multiple of 4, and at most 32 · PARTS
// grid = (2 · tiles, heads), block = 128
namespace {

constexpr int THREADS = 128;
constexpr int EACH = 8;  // queries of a warp
constexpr int QUERIES = THREADS / 32 * EACH;
constexpr int KEYS = 32;

// A row in shared memory is 16 bytes longer than it need be, so that lanes read the same columns of eight rows at once.
template <int PARTS>
constexpr int STRIDE = 32 * PARTS + 4;

// Copies rows `first..first + 32` of a sequence; past its end are zeros.
template <int PARTS>
DEVICE void copy_rows(float* to, const float* from, size_t row_width, int first, int length, int width) {
    const int fours = width / 4;
    for (int i = threadIdx.x; i < KEYS * fours; i += THREADS) {
        const int row = i / fours, at = i % fours * 4;
        const bool is_there = first + row < length;
        const float4 none = make_float4(0, 0, 0, 0);
        store4(to + row * STRIDE<PARTS> + at, is_there ? load4(from + (first + row) * row_width + at) : none);
    }
}

template <int PARTS>
DEVICE void attend(const float* qkv, const unsigned* tiles, float* output, int heads, int sharing, int before,
    int after, float scale, int width) {
    SHARED(float, queries, QUERIES * STRIDE<PARTS>);
    SHARED(float, others, KEYS * STRIDE<PARTS>);  // keys, then values
    SHARED(float, weights, THREADS * EACH);
    const unsigned* tile = tiles + blockIdx.x / 2 * 3;
    const int begin = load(tile), length = load(tile + 1) - begin;
    const int query = load(tile + 2) + (blockIdx.x & 1) * QUERIES;
    if (query >= length) return;
    const Rows<float> rows(qkv, begin, length, heads, sharing, width);
    const int lane = threadIdx.x & 31, own = threadIdx.x / 32 * EACH;
    const float* own_queries = queries + own * STRIDE<PARTS>;
    float* own_weights = weights + own * KEYS;

    float sums[PARTS][EACH] = {}, scores[EACH], largest[EACH], total[EACH];
#pragma unroll
    for (int q = 0; q < EACH; q++) {
        largest[q] = PLANTED(attend_begins_at_minus_infinity) ? MINUS_INFINITY : LEAST;
        total[q] = 0;
    }
    copy_rows<PARTS>(queries, rows.queries, rows.width, query, length, width);
    const int late = PLANTED(attend_begins_a_tile_late) ? KEYS : 0;
    const int from = max(query - before + late, 0) / KEYS * KEYS, to = min(query + QUERIES + after, length);
    for (int first = from; first < to; first += KEYS) {
        copy_rows<PARTS>(others, rows.keys, rows.width, first, length, width);
        if (!PLANTED(attend_reads_before_all_have_copied)) __syncthreads();
#pragma unroll
        for (int q = 0; q < EACH; q++) scores[q] = 0;
        for (int at = 0; at < width; at += 4) {
            const float4 key = load4(others + lane * STRIDE<PARTS> + at);
#pragma unroll
            for (int q = 0; q < EACH; q++) {
                const float4 x = load4(own_queries + q * STRIDE<PARTS> + at);
                scores[q] = fmaf(x.x, key.x, fmaf(x.y, key.y, fmaf(x.z, key.z, fmaf(x.w, key.w, scores[q]))));
            }
        }
#pragma unroll
        for (int q = 0; q < EACH; q++) {
            const bool is_seen = Seen(query + own + q, before, after, length).has(first + lane);
            const float score = is_seen || PLANTED(attend_without_mask) ? scores[q] * scale : MINUS_INFINITY;
            const float most = fmaxf(largest[q], warp_max(score));
            const float decay = exp2_approx(largest[q] - most);
            largest[q] = most;
            scores[q] = exp2_approx(score - most);
            total[q] = total[q] * decay + scores[q];
#pragma unroll
            for (int part = 0; part < PARTS; part++) sums[part][q] *= decay;
        }
        write8(own_weights + lane * EACH, scores);
        __syncthreads();

        copy_rows<PARTS>(others, rows.values, rows.width, first, length, width);
        __syncthreads();
        for (int key = 0; key < KEYS; key++) {
            float weight[EACH];
            read8(weight, own_weights + key * EACH);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                if (part * 32 + lane >= width) break;
                const float value = load(others + key * STRIDE<PARTS> + part * 32 + lane);
#pragma unroll
                for (int q = 0; q < EACH; q++) sums[part][q] = fmaf(weight[q], value, sums[part][q]);
            }
        }
        if (!PLANTED(attend_copies_before_all_have_read)) __syncthreads();
    }

#pragma unroll
    for (int q = 0; q < EACH; q++) {
        const float inverse = 1.0f / warp_sum(total[q]);
        const int row = query + own + q;
        if (row >= length) break;
        float* to = output + (static_cast<size_t>(begin + row) * heads + blockIdx.y) * width;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            if (part * 32 + lane < width) store(to + part * 32 + lane, sums[part][q] * inverse);
        }
    }
}

}  // namespace

#define ENTRY(width_max, parts)                                                                                  \
    KERNEL(THREADS)                                                                                              \
    attend_f32_##width_max(const float* qkv, const unsigned* tiles, float* output, int heads, int sharing,       \
        int before, int after, float scale, int width) {                                                         \
        attend<parts>(qkv, tiles, output, heads, sharing, before, after, scale, width);                          \
    }
ENTRY(32, 1)
ENTRY(64, 2)
ENTRY(96, 3)
ENTRY(128, 4)
#undef ENTRY
