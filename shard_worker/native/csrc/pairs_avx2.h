// Compact weights in AVX2 registers: eight rows by two columns of bfloat16, a row a lane.
#pragma once

#include <immintrin.h>

#include "compact.h"

namespace {

struct Pairs {
    using Reg = __m256i;
    using Table = __m256i;
    static constexpr int decoded_rows = 2, expanded_rows = 4;

    static Table table(const uint8_t* high_bytes) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high_bytes)));
    }
    // Half a unit's four registers, two columns each; the other half is 32 bytes further.
    static void decode(const uint8_t* unit, Table table, Reg* weights) {
        const Reg nibbles = _mm256_set1_epi8(15), codes = load(unit);
        const Reg near = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibbles));
        const Reg far = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibbles));
        const Reg near_low = load(unit + tandem::compact_code_bytes);
        const Reg far_low = load(unit + tandem::compact_code_bytes + tandem::compact_low_bytes);
        weights[0] = _mm256_unpacklo_epi8(near_low, near);
        weights[1] = _mm256_unpackhi_epi8(near_low, near);
        weights[2] = _mm256_unpacklo_epi8(far_low, far);
        weights[3] = _mm256_unpackhi_epi8(far_low, far);
    }
    static Reg load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
    static void store(void* p, Reg a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
    static __m256 even(Reg a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
    static __m256 odd(Reg a) {
        return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(int32_t(0xffff0000))));
    }
};

}  // namespace
