// One sampled position's records (tandem.shard.v1.StepResult): log-sum-exps, and the best few of its logits as they
// are, processed, and with noise. Included once per instruction set.
#pragma once

#include "best.h"
#include "kernels.h"
#include "noise.h"
#include "pointwise.h"
#include "summarize.h"

namespace {

using tandem::DrawRow;
using tandem::DrawShape;

// Scratch of one thread.
struct DrawScratch {
    std::vector<float> processed;
    std::vector<Entry> entries;
};

inline void put_list(const std::vector<Entry>& entries, int64_t length, int64_t first_id, int32_t* ids, float* values) {
    for (int64_t i = 0; i < length; i++) {
        ids[i] = int32_t(first_id + entries[i].index);
        values[i] = entries[i].value;
    }
}

inline void best_of(const float* values, const DrawShape& shape, int64_t length, std::vector<Entry>& entries) {
    if (length > 0) {
        gather(values, shape.size, length, entries);
        order(entries, length);
    }
}

// The best by exact score, ties to the lower index. `maximum` is the largest of `processed`. What the noise cannot lift
// to the k-th best so far is passed over: p + noise >= floor asks for noise of at least -log(e^(p - floor)).
inline void best_noised(
    const float* processed, float maximum, const DrawRow& row, const DrawShape& shape, DrawScratch& scratch) {
    constexpr int64_t run = 64;
    static_assert(run % Vec::width == 0);
    const uint64_t start = noise_start(row.seed, uint64_t(row.position)), first_id = uint64_t(shape.first_id);
    // What is rounded on the way: sums of numbers of this size, and a few units of the exponentials.
    const float slack = 1e-4f + (std::fabs(maximum) + 128.0f) * 0x1p-22f;
    const auto k = size_t(shape.num_noised);
    std::vector<Entry>& entries = scratch.entries;
    entries.clear();
    float reach = INFINITY;  // e^(maximum - floor), and a little more
    alignas(64) float values[run], most[run];
    int32_t is_near[run];
    for (int64_t from = 0; from < shape.size; from += run) {
        const int64_t count = std::min(run, shape.size - from);
        const float* stretch = processed + from;
        if (count < run) {
            std::fill(std::copy(stretch, stretch + count, values), values + run, -INFINITY);
            stretch = values;
        }
        for (int64_t i = 0; i < run; i += Vec::width) {
            const Vec::Reg share = exponential(Vec::add(Vec::load(stretch + i), Vec::fill(-maximum)));
            Vec::store(most + i, Vec::mul(share, Vec::fill(reach)));
        }
        if (!noise_may_reach<run>(most, start, first_id + uint64_t(from), is_near)) {
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            if (is_near[i]) {
                const uint64_t id = first_id + uint64_t(from + i);
                entries.push_back({exact_noise(start, id) + stretch[i], int32_t(from + i)});
            }
        }
        if (entries.size() >= k) {
            std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), comes_first);
            const float floor = entries[k - 1].value;
            const auto is_beaten = [floor](const Entry& entry) { return entry.value < floor; };
            entries.erase(std::remove_if(entries.begin(), entries.end(), is_beaten), entries.end());
            reach = std::exp(maximum - floor + slack);
        }
    }
    order(entries, shape.num_noised);
}

inline void draw(const DrawRow& row, const DrawShape& shape) {
    static thread_local DrawScratch scratch;
    const float* processed = row.logits;
    if (row.divisor != 1.0f) {
        scratch.processed.resize(shape.size);
        for (int64_t i = 0; i < shape.size; i++) {
            scratch.processed[i] = row.logits[i] / row.divisor;
        }
        processed = scratch.processed.data();
    }
    float best, raw_best;
    int64_t at, raw_at;
    summarize(processed, shape.size, &best, &at, row.processed_lse);
    if (row.raw == processed) {
        *row.raw_lse = *row.processed_lse;
    } else {
        summarize(row.raw, shape.size, &raw_best, &raw_at, row.raw_lse);
    }
    if (row.noised) {
        best_noised(processed, best, row, shape, scratch);
    } else if (shape.num_noised == 1) {
        scratch.entries.assign(1, {best, int32_t(at)});
    } else {
        best_of(processed, shape, shape.num_noised, scratch.entries);
    }
    put_list(scratch.entries, shape.num_noised, shape.first_id, row.noised_ids, row.noised_scores);
    for (int64_t i = 0; i < shape.num_noised; i++) {
        row.noised_processed[i] = processed[scratch.entries[i].index];
        row.noised_raw[i] = row.raw[scratch.entries[i].index];
    }
    best_of(processed, shape, shape.num_top, scratch.entries);
    put_list(scratch.entries, shape.num_top, shape.first_id, row.top_ids, row.top_processed);
    best_of(row.raw, shape, shape.num_raw, scratch.entries);
    put_list(scratch.entries, shape.num_raw, shape.first_id, row.raw_ids, row.raw_logits);
}

}  // namespace
