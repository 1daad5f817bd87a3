// One sampled position's records (tandem.shard.v1.StepResult): log-sum-exps, and the best few of its logits as they
// are, processed, and with noise. Included once per instruction set.
#pragma once

#include "best.h"
#include "kernels.h"
#include "noise.h"
#include "summarize.h"

namespace {

using tandem::DrawRow;
using tandem::DrawShape;

// Scratch of one thread.
struct DrawScratch {
    std::vector<float> processed, scores;
    std::vector<Entry> entries;
};

inline void put_list(const std::vector<Entry>& entries, int64_t length, const DrawShape& shape, int32_t* ids,
                     float* values) {
    for (int64_t i = 0; i < length; i++) {
        ids[i] = int32_t(shape.id(entries[i].index));
        values[i] = entries[i].value;
    }
}

inline void best_of(const float* values, const DrawShape& shape, int64_t length, std::vector<Entry>& entries) {
    if (length > 0) {
        gather(values, shape.size, length, 0.0f, entries);
        order(entries, length);
    }
}

// The best by exact score: those whose rough score is near enough to the best are looked at again.
inline void best_noised(const float* processed, const DrawRow& row, const DrawShape& shape, DrawScratch& scratch) {
    const uint64_t start = noise_start(row.seed, uint64_t(row.position));
    scratch.scores.resize(shape.size);
    if (shape.ids) {
        add_rough_noise(processed, start, [&](int64_t i) { return shape.ids[i]; }, shape.size, scratch.scores.data());
    } else {
        const int64_t first_id = shape.first_id;
        add_rough_noise(processed, start, [=](int64_t i) { return first_id + i; }, shape.size, scratch.scores.data());
    }
    float largest = 0.0f;
    for (int64_t i = 0; i < shape.size; i++) {
        const float magnitude = std::fabs(processed[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    const float margin = 2.0f * (noise_error + (largest + 40.0f) * 0x1p-22f);
    gather(scratch.scores.data(), shape.size, shape.num_noised, margin, scratch.entries);
    for (Entry& entry : scratch.entries) {
        entry.value = exact_noise(start, uint64_t(shape.id(entry.index))) + processed[entry.index];
    }
    order(scratch.entries, shape.num_noised);
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
        best_noised(processed, row, shape, scratch);
    } else if (shape.num_noised == 1) {
        scratch.entries.assign(1, {best, int32_t(at)});
    } else {
        best_of(processed, shape, shape.num_noised, scratch.entries);
    }
    put_list(scratch.entries, shape.num_noised, shape, row.noised_ids, row.noised_scores);
    for (int64_t i = 0; i < shape.num_noised; i++) {
        row.noised_processed[i] = processed[scratch.entries[i].index];
        row.noised_raw[i] = row.raw[scratch.entries[i].index];
    }
    best_of(processed, shape, shape.num_top, scratch.entries);
    put_list(scratch.entries, shape.num_top, shape, row.top_ids, row.top_processed);
    best_of(row.raw, shape, shape.num_raw, scratch.entries);
    put_list(scratch.entries, shape.num_raw, shape, row.raw_ids, row.raw_logits);
}

}  // namespace
