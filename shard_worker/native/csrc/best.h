// The best few of many values: those that may be among them are gathered in one pass, the rest is never ordered.
// Included once per instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

struct Entry {
    float value;
    int32_t index;
};

// By value, ties to the lower index.
inline bool comes_first(const Entry& a, const Entry& b) {
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// The largest of some values; those that are no numbers are passed over.
inline float largest(const float* values, int64_t count) {
    Vec::Reg top = Vec::fill(-INFINITY);
    int64_t i = 0;
    for (; i + Vec::width <= count; i += Vec::width) {
        top = Vec::max(Vec::load(values + i), top);  // the second where the first is no number
    }
    float lanes[Vec::width], maximum = -INFINITY;
    Vec::store(lanes, top);
    for (float lane : lanes) {
        maximum = lane > maximum ? lane : maximum;
    }
    for (; i < count; i++) {
        maximum = values[i] > maximum ? values[i] : maximum;
    }
    return maximum;
}

// Gather into `entries` every value that is at least the k-th best, and perhaps some that are not.
// Values that are no numbers are passed over. Returns the k-th best, or minus infinity where there are fewer.
inline float gather(const float* values, int64_t count, int64_t k, std::vector<Entry>& entries) {
    constexpr int64_t run = 64;
    const size_t most = size_t(4 * k + 64);
    float kth = -INFINITY;
    entries.clear();
    const auto raise = [&] {
        std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), comes_first);
        kth = entries[k - 1].value;
        entries.erase(std::remove_if(entries.begin(), entries.end(),
                                     [&](const Entry& entry) { return entry.value < kth; }),
                      entries.end());
    };
    size_t next_raise = most;
    for (int64_t start = 0; start < count; start += run) {
        const int64_t stop = std::min(start + run, count);
        if (largest(values + start, stop - start) < kth) {
            continue;
        }
        for (int64_t i = start; i < stop; i++) {
            if (values[i] >= kth) {
                entries.push_back({values[i], int32_t(i)});
            }
        }
        if (entries.size() >= next_raise) {
            raise();
            next_raise = std::max(most, 2 * entries.size());  // many ties may stay
        }
    }
    if (int64_t(entries.size()) >= k) {
        raise();
    }
    return kth;
}

// Order the first k of `entries`, which are at least as many. Where they are not, values are missing: any ids do.
inline void order(std::vector<Entry>& entries, int64_t k) {
    for (int32_t index = 0; int64_t(entries.size()) < k; index++) {
        if (std::none_of(entries.begin(), entries.end(), [&](const Entry& entry) { return entry.index == index; })) {
            entries.push_back({-INFINITY, index});
        }
    }
    std::partial_sort(entries.begin(), entries.begin() + k, entries.end(), comes_first);
}

}  // namespace
