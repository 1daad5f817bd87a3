// Compact weights in AVX-512 registers: 16 rows by two columns of bfloat16, a row a lane. AVX-512BW.
#pragma once

#include <immintrin.h>

#include "compact.h"

namespace {

struct Pairs {
    using Reg = __m512i;
    using Table = __m512i;
    // Most rows of x whose sums over two panels stay in registers beside the weights.
    static constexpr int decoded_rows = 8, expanded_rows = 12;

    static Table table(const uint8_t* high_bytes) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high_bytes)));
    }
    // A unit's four registers, two columns each.
    static void decode(const uint8_t* unit, Table table, Reg* weights) {
        const Reg nibbles = _mm512_set1_epi8(15), codes = load(unit);
        const Reg near = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, nibbles));
        const Reg far = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibbles));
        const Reg near_low = load(unit + tandem::compact_code_bytes);
        const Reg far_low = load(unit + tandem::compact_code_bytes + tandem::compact_low_bytes);
        weights[0] = _mm512_unpacklo_epi8(near_low, near);
        weights[1] = _mm512_unpackhi_epi8(near_low, near);
        weights[2] = _mm512_unpacklo_epi8(far_low, far);
        weights[3] = _mm512_unpackhi_epi8(far_low, far);
    }
    static Reg load(const void* p) { return _mm512_loadu_si512(p); }
    static void store(void* p, Reg a) { _mm512_storeu_si512(p, a); }
    static __m512 even(Reg a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
    static __m512 odd(Reg a) {
        return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(int32_t(0xffff0000))));
    }
};

}  // namespace
