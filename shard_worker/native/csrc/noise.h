// Gumbel noise as sampling/noise.py defines it: exactly for a few ids, and nearly so, at a fraction of the time, for
// a stretch of ids of which only the best matter. Included once per instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr uint64_t golden = 0x9E3779B97F4A7C15u;
// Of approximate noise, with room to spare: its logarithms are right to 1e-4.
constexpr float noise_error = 1e-3f;

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

// The natural logarithm of a positive, normal number to about 1e-5: exponent, and a series around 1.
inline float rough_log(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // so that the rest lies between the square roots of 1/2 and 2
    bits -= exponent << 23;
    float rest;
    std::memcpy(&rest, &bits, sizeof rest);
    const float s = (rest - 1.0f) / (rest + 1.0f), s2 = s * s;
    const float series = 2.0f * s * (1.0f + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7))));
    return float(exponent) * 0.69314718f + series;
}

// out[i] = values[i] + the noise of id_of(i), to within noise_error and the rounding of the sum.
template <class IdOf>
inline void add_rough_noise(const float* values, uint64_t start, IdOf id_of, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i++) {
        const int64_t word = int64_t(mix(start + (uint64_t(id_of(i)) + 1) * golden) >> 12);
        const float u = (float(word) + 0.5f) * 0x1p-52f;
        const float rest = (float((int64_t(1) << 52) - 1 - word) + 0.5f) * 0x1p-52f;  // 1 - u, with all its digits
        const float small = u * (1.0f + u * (0.5f + u * (1.0f / 3)));
        const float large = -rough_log(rest);
        out[i] = values[i] - rough_log(u < 0.0156f ? small : large);
    }
}

}  // namespace
