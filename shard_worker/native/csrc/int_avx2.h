// Sums of four products of bytes a lane with AVX2, whose products of bytes are unsigned by signed and 16 bits wide.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct IntAvx2 {
    using Reg = __m256i;
    // Magnitudes and what gave them their signs: two products of those fit into 16 bits, of q + 128 they would not.
    struct Signed {
        __m256i magnitude, sign;
    };
    static constexpr int lanes = 8;
    static constexpr int32_t int8_offset = 0;
    static constexpr int most_rows = 4;

    static Reg fill(int32_t x) { return _mm256_set1_epi32(x); }
    static Signed int8(const uint8_t* p) {
        const __m256i value = _mm256_xor_si256(load(p), _mm256_set1_epi8(char(0x80)));
        return {_mm256_abs_epi8(value), value};
    }
    static void int4(const uint8_t* p, __m256i& low, __m256i& high) {
        const __m256i bytes = load(p), mask = _mm256_set1_epi8(15);
        low = _mm256_and_si256(bytes, mask);
        high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    }
    static Reg dot(Reg sum, Signed weights, Reg x) {
        return dot4(sum, weights.magnitude, _mm256_sign_epi8(x, weights.sign));
    }
    static Reg dot4(Reg sum, __m256i weights, Reg x) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1)));
    }
    static __m256 to_float(Reg a) { return _mm256_cvtepi32_ps(a); }
    // Eight pairs of bfloat16.
    static void pairs(const uint8_t* p, __m256& first, __m256& second) {
        const __m256i both = load(p);
        first = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        second = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(int32_t(0xffff0000))));
    }

  private:
    static __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
};

}  // namespace
