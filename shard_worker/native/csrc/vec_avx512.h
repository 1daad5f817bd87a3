// Sixteen floats in an AVX-512 register. Part of kernels_avx512.cpp alone, hence the unnamed namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Vec {
    using Reg = __m512;
    static constexpr int width = 16;
    // Most rows of x, and rows of a matrix beside them, whose sums stay in the 32 registers.
    static constexpr int block_rows = 8;

    static Reg zero() { return _mm512_setzero_ps(); }
    static Reg fill(float x) { return _mm512_set1_ps(x); }
    static Reg load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Reg a) { _mm512_storeu_ps(p, a); }
    static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
    static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
    static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
    static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
    static float sum(Reg a) { return _mm512_reduce_add_ps(a); }
    // The sums of four registers, next to each other.
    static void sum4(const Reg* a, float* out) {
        __m256 half[4];
        for (int i = 0; i < 4; i++) {
            half[i] = _mm256_add_ps(_mm512_castps512_ps256(a[i]), _mm512_extractf32x8_ps(a[i], 1));
        }
        __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
    }
    static float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

    static Reg load(const uint16_t* bfloat16) {
        __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bfloat16));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static Reg load(const int8_t* q) {
        __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }

    // Sixteen bytes, two columns each: the 16 possible values are one register, looked up by the low four bits.
    static void load_int4(const uint8_t* q, float scale, float zero, Reg& even, Reg& odd) {
        const Reg steps = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        Reg values = fma(steps, fill(scale), fill(zero));
        __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
        even = _mm512_permutexvar_ps(pairs, values);
        odd = _mm512_permutexvar_ps(_mm512_srli_epi32(pairs, 4), values);
    }

    // 2^n of a whole number n in [-126, 127]. NaN stays NaN through the other factor.
    static Reg power_of_two(Reg n) { return _mm512_scalef_ps(fill(1.0f), n); }
    static Reg nearest(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

}  // namespace
