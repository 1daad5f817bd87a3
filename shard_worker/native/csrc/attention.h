// Paged attention of one query group over one stretch of the context: scores, their exponentials, the weighted
// sum of values. Stretches are merged by the driver (Dao et al. 2023, flash-decoding). Once per instruction set.
#pragma once

#include "kernels.h"

namespace {

using tandem::AttentionTask;

template <class T>
float dot(const float* x, const T* y, int64_t count) {
    Vec::Reg sum = Vec::zero();
    int64_t at = 0;
    for (; at + Vec::width <= count; at += Vec::width) {
        sum = Vec::fma(Vec::load(x + at), Vec::load(y + at), sum);
    }
    float total = Vec::sum(sum);
    for (; at < count; at++) {
        total = Vec::fma1(x[at], widen(y[at]), total);
    }
    return total;
}

// Replace scores by exp(score - maximum) and return their sum.
float exponentials(float* scores, int64_t count, float maximum) {
    float total = 0.0f;
    for (int64_t at = 0; at < count; at += Vec::width) {
        float run[Vec::width];
        const int filled = count - at < Vec::width ? int(count - at) : Vec::width;
        for (int i = 0; i < Vec::width; i++) {
            run[i] = i < filled ? scores[at + i] - maximum : 0.0f;
        }
        Vec::store(run, exponential(Vec::load(run)));
        for (int i = 0; i < filled; i++) {
            scores[at + i] = run[i];
            total += run[i];
        }
    }
    return total;
}

template <class T>
void attend(const AttentionTask& task) {
    const int64_t count = task.stop - task.start, head_dim = task.head_dim;
    const int64_t slot_stride = 2 * task.kv_heads * head_dim, value_offset = task.kv_heads * head_dim;
    const T* head = static_cast<const T*>(task.cache) + task.kv_head * head_dim;
    const float scale = 1.0f / __builtin_sqrtf(float(head_dim));
    const T* keys[tandem::attention_stretch];
    for (int64_t block = task.start / task.block_size, position = task.start; position < task.stop; block++) {
        const int64_t first = block * task.block_size;
        for (; position < task.stop && position < first + task.block_size; position++) {
            const int64_t slot = task.blocks[block] * task.block_size + position - first;
            keys[position - task.start] = head + slot * slot_stride;
        }
    }
    for (int64_t offset = 0; offset < count; offset++) {
        const T* k = keys[offset];
        for (int64_t g = 0; g < task.queries; g++) {
            task.scores[g * count + offset] = dot(task.query + g * head_dim, k, head_dim) * scale;
        }
    }
    for (int64_t g = 0; g < task.queries; g++) {
        float* out = task.out + g * (head_dim + 2);
        float* scores = task.scores + g * count;
        float maximum = scores[0];
        for (int64_t offset = 1; offset < count; offset++) {
            maximum = scores[offset] > maximum ? scores[offset] : maximum;
        }
        out[head_dim] = maximum;
        out[head_dim + 1] = exponentials(scores, count, maximum);
        for (int64_t d = 0; d < head_dim; d++) {
            out[d] = 0.0f;
        }
    }
    for (int64_t offset = 0; offset < count; offset++) {
        const T* v = keys[offset] + value_offset;
        for (int64_t g = 0; g < task.queries; g++) {
            float* out = task.out + g * (head_dim + 2);
            const float weight = task.scores[g * count + offset];
            int64_t d = 0;
            for (; d + Vec::width <= head_dim; d += Vec::width) {
                Vec::store(out + d, Vec::fma(Vec::fill(weight), Vec::load(v + d), Vec::load(out + d)));
            }
            for (; d < head_dim; d++) {
                out[d] = Vec::fma1(weight, widen(v[d]), out[d]);
            }
        }
    }
}

}  // namespace
