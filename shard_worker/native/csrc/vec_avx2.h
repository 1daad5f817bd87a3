// Eight floats in an AVX register, with AVX2 and FMA. Part of kernels_avx2.cpp alone.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Vec {
    using Reg = __m256;
    static constexpr int width = 8;
    static constexpr int block_rows = 4;

    static Reg zero() { return _mm256_setzero_ps(); }
    static Reg fill(float x) { return _mm256_set1_ps(x); }
    static Reg load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
    static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
    static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
    static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
    static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
    static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
    static float fma1(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

    static float sum(Reg a) {
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
    // The sums of four registers, next to each other.
    static void sum4(const Reg* a, float* out) {
        __m256 four = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(four), _mm256_extractf128_ps(four, 1)));
    }
    static Reg load(const uint16_t* bfloat16) {
        __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bfloat16));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static Reg load(const int8_t* q) {
        __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }

    // Eight bytes, two columns each.
    static void load_int4(const uint8_t* q, float scale, float zero, Reg& even, Reg& odd) {
        __m256i pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q)));
        even = int4_value(_mm256_and_si256(pairs, _mm256_set1_epi32(15)), scale, zero);
        odd = int4_value(_mm256_srli_epi32(pairs, 4), scale, zero);
    }

    static Reg power_of_two(Reg n) {
        __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    }
    static Reg nearest(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  private:
    static Reg int4_value(__m256i q, float scale, float zero) {
        Reg steps = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, _mm256_set1_epi32(8)));
        return fma(steps, fill(scale), fill(zero));
    }
};

}  // namespace
