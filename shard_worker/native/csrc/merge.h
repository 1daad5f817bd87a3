// One query head's attention from that of the stretches of its context (Dao et al. 2023, flash-decoding).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace tandem {

// `parts`: of each stretch, `stride` floats apart, an unnormalised sum [head_dim], the maximum score and the sum of
// weights (AttentionTask.out). Stretches are weighted by exp(their maximum - the overall one).
inline void merge_stretches(const float* parts, int64_t count, int64_t stride, int64_t head_dim, float* out) {
    float maximum = parts[head_dim];
    for (int64_t index = 1; index < count; index++) {
        maximum = std::max(maximum, parts[index * stride + head_dim]);
    }
    std::fill_n(out, head_dim, 0.0f);
    float total = 0.0f;
    for (int64_t index = 0; index < count; index++) {
        const float* from = parts + index * stride;
        const float weight = std::exp(from[head_dim] - maximum);
        total += weight * from[head_dim + 1];
        for (int64_t d = 0; d < head_dim; d++) {
            out[d] += weight * from[d];
        }
    }
    for (int64_t d = 0; d < head_dim; d++) {
        out[d] /= total;
    }
}

}  // namespace tandem
