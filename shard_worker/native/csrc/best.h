// The best few of many values: those not far below the k-th best are gathered in one pass, the rest is never ordered.
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

// Gather into `entries` every value that is at least the k-th best less `margin`, and perhaps some that are not.
// Values that are no numbers are passed over. Returns the k-th best, or minus infinity where there are fewer.
inline float gather(const float* values, int64_t count, int64_t k, float margin, std::vector<Entry>& entries) {
    constexpr int64_t run = 64;
    const size_t most = size_t(4 * k + 64);
    float kth = -INFINITY;
    entries.clear();
    const auto raise = [&] {
        std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), comes_first);
        kth = entries[k - 1].value;
        entries.erase(std::remove_if(entries.begin(), entries.end(),
                                     [&](const Entry& entry) { return entry.value < kth - margin; }),
                      entries.end());
    };
    size_t next_raise = most;
    for (int64_t start = 0; start < count; start += run) {
        const int64_t stop = std::min(start + run, count);
        const float floor = kth - margin;
        float maximum = -INFINITY;
        for (int64_t i = start; i < stop; i++) {
            maximum = values[i] > maximum ? values[i] : maximum;
        }
        if (maximum < floor) {
            continue;
        }
        for (int64_t i = start; i < stop; i++) {
            if (values[i] >= floor) {
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
