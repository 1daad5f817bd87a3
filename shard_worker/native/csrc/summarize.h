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
    double total = 0.0;  // of stretches, so that thousands of small numbers are not rounded away one by one
    int64_t k = 0;
    while (k + Vec::width <= count) {
        Vec::Reg sums = Vec::zero();
        for (const int64_t stop = k + 64 * Vec::width; k + Vec::width <= count && k < stop; k += Vec::width) {
            sums = Vec::add(sums, exponential(Vec::add(Vec::load(x + k), Vec::fill(-maximum))));
        }
        total += Vec::sum(sums);
    }
    for (; k < count; k++) {
        total += std::exp(x[k] - maximum);
    }
    int64_t first = 0;
    while (first + 1 < count && x[first] != maximum) {
        first++;
    }
    *best = maximum;
    *at = first;
    *lse = float(maximum + std::log(total));
}

}  // namespace
