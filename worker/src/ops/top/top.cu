#include "gpu.cuh"

// Of each row of logits [M, V] the largest, Σ e^(logit - largest), and the `count` best entries: higher logits first, of
// equal ones the lower id. Logits are ordered as their bits are, -0 below 0, so that no two entries are equal and the
// order in which they are looked at shows nowhere. `count` is 32 at most.
//
// Each warp keeps its best entries, one a lane, and inserts those that are better than the last; the warps' lists meet in
// shared memory. The sum takes a second look at the row, which is then in the cache.
//
// output: [M, 2 + 2 · count], largest and sum, then id and logit of each entry. Beyond the vocabulary there are none: the
// id is 2³² - 1, and the logit no number.
// grid = M, block = 512
namespace {

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;
// Logits that a thread reads before it looks at any.
constexpr int AHEAD = 4;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.44269504f;

// A logit and its id as one number, which is larger the better it is. 0 is no entry.
using Entry = unsigned long long;

DEVICE Entry entry(float logit, int id) {
    const unsigned bits = __float_as_uint(logit);
    const unsigned rank = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
    return static_cast<Entry>(rank) << 32 | ~static_cast<unsigned>(id);
}

DEVICE unsigned id_of(Entry entry) {
    return ~static_cast<unsigned>(entry);
}

DEVICE float logit_of(Entry entry) {
    const unsigned rank = static_cast<unsigned>(entry >> 32);
    return __uint_as_float(rank ^ ((rank >> 31) != 0 ? 0x80000000u : 0xffffffffu));
}

// The best entries that a warp was offered: one a lane, the best first.
struct Best {
    Entry own = 0;
    // The last that counts.
    Entry last = 0;

    // Takes in what lanes have, where it is better than the last.
    DEVICE void offer(Entry offered, int count) {
        const int lane = threadIdx.x & 31;
        while (const unsigned better = __ballot_sync(ALL_LANES, offered > last)) {
            const int from = __ffs(static_cast<int>(better)) - 1;
            const Entry next = __shfl_sync(ALL_LANES, offered, from);
            const Entry before = __shfl_up_sync(ALL_LANES, own, 1);
            if (own < next) own = lane == 0 || before > next ? next : before;
            last = __shfl_sync(ALL_LANES, own, count - 1);
            if (lane == from) offered = 0;
        }
    }
};

DEVICE float largest_of(const Entry* lists) {
    Entry largest = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) {
        const Entry first = load(lists + warp * 32);
        if (first > largest) largest = first;
    }
    return logit_of(largest);
}

}  // namespace

KERNEL(THREADS) top(const float* logits, unsigned* output, int vocabulary, int count) {
    SHARED(Entry, lists, WARPS * 32);
    SHARED(float, sums, WARPS);
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const float* row = logits + static_cast<size_t>(blockIdx.x) * vocabulary;

    Best best;
    for (int first = 0; first < vocabulary; first += AHEAD * THREADS) {
        Entry offered[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int id = first + i * THREADS + thread;
            offered[i] = id < vocabulary ? entry(load(row + id), id) : 0;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) best.offer(offered[i], count);
    }
    store(lists + thread, best.own);
    if (!PLANTED(top_without_barrier)) __syncthreads();

    const float largest = largest_of(lists);
    float sum = 0;
#pragma unroll 4
    for (int id = thread; id < vocabulary; id += THREADS) sum += exp2_approx((load(row + id) - largest) * LOG2_E);
    sum = warp_sum(sum);
    if (lane == 0) store(sums + warp, sum);
    __syncthreads();

    if (warp != 0) return;
    float total = 0;
    for (int other = 0; other < WARPS; other++) total += load(sums + other);
    for (int other = 1; other < WARPS; other++) best.offer(load(lists + other * 32 + lane), count);
    unsigned* to = output + static_cast<size_t>(blockIdx.x) * (2 + 2 * count);
    if (lane == 0) {
        store(to, __float_as_uint(largest));
        store(to + 1, __float_as_uint(total));
    }
    if (lane < count) {
        store(to + 2 + 2 * lane, id_of(best.own));
        store(to + 3 + 2 * lane, __float_as_uint(logit_of(best.own)));
    }
}
