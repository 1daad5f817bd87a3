// Gumbel noise as sampling/noise.py defines it: exactly for a few ids, and for a stretch of ids which of them it may
// lift far enough, at a fraction of the time. Included once per instruction set.
#pragma once

#include <cmath>
#include <cstdint>

namespace {

constexpr uint64_t golden = 0x9E3779B97F4A7C15u;

// SplitMix64's finaliser.
inline uint64_t mix(uint64_t bits) {
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return bits ^ bits >> 31;
}

// Where the sampling stream of a seed begins at a position.
inline uint64_t noise_start(uint64_t seed, uint64_t position) {
    return mix(mix(seed + golden) + (position + 1) * golden);
}

inline float exact_noise(uint64_t start, uint64_t id) {
    const uint64_t word = mix(start + (id + 1) * golden) >> 12;
    const double minus_u = (double(word) + 0.5) * -0x1p-52;
    return -float(std::log(-std::log1p(minus_u)));
}

// is_near[i]: whether the noise of id first_id + i may be at least -log(most[i]); true too for a few where it is not.
// The noise is -log(-log(1 - u)) of a hash u, so at most -log(u): that is asked of the hash's highest 24 bits, without
// a logarithm. Returns whether any is.
template <int64_t count>
inline bool noise_may_reach(const float* most, uint64_t start, uint64_t first_id, int32_t* is_near) {
    int32_t any = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t highest = int32_t(mix(start + (first_id + uint64_t(i) + 1) * golden) >> 40);
        is_near[i] = float(highest) * 0x1p-24f <= most[i];
        any |= is_near[i];
    }
    return any != 0;
}

}  // namespace
