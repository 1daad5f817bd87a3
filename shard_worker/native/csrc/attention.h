// Paged attention of one query group over one stretch of the context: scores, their exponentials, the weighted
// sum of values. Stretches are merged by the driver (Dao et al. 2023, flash-decoding). Once per instruction set.
#pragma once

#include <algorithm>
#include <cmath>

#include "best.h"
#include "kernels.h"

namespace {

using tandem::attention_stretch;
using tandem::AttentionTask;

// Products of `queries` query heads with four keys: a key is widened once for all of them.
template <int queries, class T>
void score4(const AttentionTask& task, int64_t query, const T* const* keys, float* scores) {
    const int64_t head_dim = task.head_dim;
    const float* q = task.query + query * head_dim;
    Vec::Reg sums[queries][4];
    for (int g = 0; g < queries; g++) {
        for (int i = 0; i < 4; i++) {
            sums[g][i] = Vec::zero();
        }
    }
    int64_t d = 0;
    for (; d + Vec::width <= head_dim; d += Vec::width) {
        for (int i = 0; i < 4; i++) {
            const Vec::Reg key = Vec::load(keys[i] + d);
            for (int g = 0; g < queries; g++) {
                sums[g][i] = Vec::fma(Vec::load(q + g * head_dim + d), key, sums[g][i]);
            }
        }
    }
    for (int g = 0; g < queries; g++) {
        float* totals = scores + (query + g) * attention_stretch;
        Vec::sum4(sums[g], totals);
        for (int i = 0; d < head_dim && i < 4; i++) {
            for (int64_t rest = d; rest < head_dim; rest++) {
                totals[i] = Vec::fma1(q[g * head_dim + rest], widen(keys[i][rest]), totals[i]);
            }
        }
    }
}

// Replace the first `count` products by exp(score - maximum), where a score is product * scale, and the rest by 0; give
// out the maximum and the sum.
void exponentials(float* scores, int64_t count, float scale, float* maximum_and_sum) {
    const int64_t whole = (count + Vec::width - 1) / Vec::width * Vec::width;
    std::fill(scores + count, scores + whole, -INFINITY);
    for (int64_t at = 0; at < whole; at += Vec::width) {
        Vec::store(scores + at, Vec::mul(Vec::load(scores + at), Vec::fill(scale)));
    }
    const float maximum = largest(scores, whole);
    Vec::Reg total = Vec::zero();
    for (int64_t at = 0; at < whole; at += Vec::width) {
        const Vec::Reg shares = exponential(Vec::add(Vec::load(scores + at), Vec::fill(-maximum)));
        Vec::store(scores + at, shares);
        total = Vec::add(total, shares);
    }
    std::fill(scores + count, scores + whole, 0.0f);
    maximum_and_sum[0] = maximum;
    maximum_and_sum[1] = Vec::sum(total);
}

// The values' sum, weighted, for `queries` query heads in `num` registers from column d on: a value is widened once for
// all of them.
template <int queries, int num, class T>
void weigh_columns(const AttentionTask& task, const float* weights, const T* const* values, int64_t d, float* out) {
    const int64_t count = task.stop - task.start, head_dim = task.head_dim;
    Vec::Reg sums[queries][num];
    for (int g = 0; g < queries; g++) {
        for (int i = 0; i < num; i++) {
            sums[g][i] = Vec::zero();
        }
    }
    for (int64_t at = 0; at < count; at++) {
        for (int i = 0; i < num; i++) {
            const Vec::Reg value = Vec::load(values[at] + d + i * Vec::width);
            for (int g = 0; g < queries; g++) {
                sums[g][i] = Vec::fma(Vec::fill(weights[g * attention_stretch + at]), value, sums[g][i]);
            }
        }
    }
    for (int g = 0; g < queries; g++) {
        for (int i = 0; i < num; i++) {
            Vec::store(out + g * (head_dim + 2) + d + i * Vec::width, sums[g][i]);
        }
    }
}

template <int queries, class T>
void weigh(const AttentionTask& task, int64_t query, const T* const* values) {
    const int64_t head_dim = task.head_dim, count = task.stop - task.start;
    const float* weights = task.scores + query * attention_stretch;
    float* out = task.out + query * (head_dim + 2);
    constexpr int side_by_side = Vec::width >= 16 ? 4 : 2;
    int64_t d = 0;
    for (; d + side_by_side * Vec::width <= head_dim; d += side_by_side * Vec::width) {
        weigh_columns<queries, side_by_side>(task, weights, values, d, out);
    }
    for (; d + Vec::width <= head_dim; d += Vec::width) {
        weigh_columns<queries, 1>(task, weights, values, d, out);
    }
    for (; d < head_dim; d++) {
        for (int g = 0; g < queries; g++) {
            float sum = 0.0f;
            for (int64_t at = 0; at < count; at++) {
                sum = Vec::fma1(weights[g * attention_stretch + at], widen(values[at][d]), sum);
            }
            out[g * (head_dim + 2) + d] = sum;
        }
    }
}

// Slots lie far apart and in no order that a processor's own prefetcher could follow.
template <class T>
void prefetch(const T* const* heads, int64_t count, int64_t after, int64_t head_dim) {
    for (int64_t at = 0; at < count; at++) {
        for (int64_t d = 0; d < head_dim; d += 64 / int64_t(sizeof(T))) {
            __builtin_prefetch(heads[at] + after + d);
        }
    }
}

template <int queries, class T>
void attend_group(const AttentionTask& task, int64_t query, const T* const* keys) {
    const int64_t count = task.stop - task.start, values_after = task.kv_heads * task.head_dim;
    for (int64_t at = 0; at < count; at += 4) {
        if (query == 0) {
            prefetch(keys + at, 4, values_after, task.head_dim);
            if (task.kv_head + 1 < task.kv_heads) {  // most likely this thread's next task
                prefetch(keys + at, 4, task.head_dim, task.head_dim);
            }
        }
        score4<queries>(task, query, keys + at, task.scores + at);
    }
    const float scale = 1.0f / __builtin_sqrtf(float(task.head_dim));
    for (int64_t g = query; g < query + queries; g++) {
        float* maximum_and_sum = task.out + g * (task.head_dim + 2) + task.head_dim;
        exponentials(task.scores + g * attention_stretch, count, scale, maximum_and_sum);
    }
    const T* values[attention_stretch];
    for (int64_t at = 0; at < count; at++) {
        values[at] = keys[at] + values_after;
    }
    weigh<queries>(task, query, values);
}

template <class T>
void attend(const AttentionTask& task) {
    const int64_t count = task.stop - task.start;
    const T* head = static_cast<const T*>(task.cache) + task.kv_head * task.head_dim;
    const T* keys[attention_stretch + 3];
    for (int64_t block = task.start / task.block_size, position = task.start; position < task.stop; block++) {
        const int64_t first = block * task.block_size;
        for (; position < task.stop && position < first + task.block_size; position++) {
            const int64_t slot = task.blocks[block] * task.block_size + position - first;
            keys[position - task.start] = head + slot * 2 * task.kv_heads * task.head_dim;
        }
    }
    if (task.kv_head == 0) {
        prefetch(keys, count, 0, task.head_dim);
    }
    // Keys come in fours: the last one stands in for those that are not there.
    for (int64_t at = count; at % 4; at++) {
        keys[at] = keys[count - 1];
    }
    int64_t query = 0;
    for (; query + 4 <= task.queries; query += 4) {
        attend_group<4>(task, query, keys);
    }
    switch (task.queries - query) {
        case 3:
            return attend_group<3>(task, query, keys);
        case 2:
            return attend_group<2>(task, query, keys);
        case 1:
            return attend_group<1>(task, query, keys);
    }
}

}  // namespace
