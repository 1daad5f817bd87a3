// Sums of four products of bytes a lane with AVX-512 BW, whose products of bytes are 16 bits wide and saturate.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct IntAvx512 {
    using Reg = __m512i;
    // q + 128 = low + 16 * high: four bits times a byte, twice, fit into 16 bits.
    struct Halves {
        __m512i low, high;
    };
    static constexpr int lanes = 16;
    static constexpr int32_t int8_offset = 128;
    static constexpr int most_rows = 8;

    static Reg fill(int32_t x) { return _mm512_set1_epi32(x); }
    static Halves int8(const uint8_t* p) {
        Halves halves;
        int4(p, halves.low, halves.high);
        return halves;
    }
    static void int4(const uint8_t* p, Reg& low, Reg& high) {
        const __m512i bytes = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
        low = _mm512_and_si512(bytes, mask);
        high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
    }
    static Reg dot(Reg sum, Halves weights, Reg x) {
        return add(dot4(sum, weights.low, x), weights.high, x, 16);
    }
    static Reg dot4(Reg sum, Reg weights, Reg x) { return add(sum, weights, x, 1); }
    static __m512 to_float(Reg a) { return _mm512_cvtepi32_ps(a); }
    // Sixteen pairs of bfloat16.
    static void pairs(const uint8_t* p, __m512& first, __m512& second) {
        const __m512i both = _mm512_loadu_si512(p);
        first = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int32_t(0xffff0000))));
    }

  private:
    static Reg add(Reg sum, Reg weights, Reg x, int16_t factor) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(weights, x), _mm512_set1_epi16(factor)));
    }
};

}  // namespace
