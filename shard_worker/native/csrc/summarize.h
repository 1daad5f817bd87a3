// A row of logits in two passes over memory that the first one has warmed: its best value, where that is first, and the
// logarithm of the sum of exponentials. Included once per instruction set.
#pragma once

#include <cmath>
#include <cstdint>

namespace {

// A NaN anywhere makes the log-sum-exp NaN.
void summarize(const float* x, int64_t count, float* best, int64_t* at, float* lse) {
    float maximum = x[0];
    int64_t i = 0;
    if (count >= Vec::width) {
        Vec::Reg top = Vec::load(x);
        for (; i + Vec::width <= count; i += Vec::width) {
            top = Vec::max(top, Vec::load(x + i));
        }
        float lanes[Vec::width];
        Vec::store(lanes, top);
        maximum = lanes[0];
        for (float lane : lanes) {
            maximum = lane > maximum ? lane : maximum;
        }
    }
    for (; i < count; i++) {
        maximum = x[i] > maximum ? x[i] : maximum;
    }
    Vec::Reg sums = Vec::zero();
    int64_t k = 0;
    for (; k + Vec::width <= count; k += Vec::width) {
        sums = Vec::add(sums, exponential(Vec::add(Vec::load(x + k), Vec::fill(-maximum))));
    }
    float total = Vec::sum(sums);
    for (; k < count; k++) {
        total += std::exp(x[k] - maximum);
    }
    int64_t first = 0;
    while (first + 1 < count && x[first] != maximum) {
        first++;
    }
    *best = maximum;
    *at = first;
    *lse = maximum + std::log(total);
}

}  // namespace
