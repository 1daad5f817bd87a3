// Products of bfloat16 activations by the processor's own instruction: two products a lane, summed in float32.
// For kernels_avx512_bf16.cpp alone.
#pragma once

#include <type_traits>

#include "linear.h"
#include "linear_compact.h"

namespace {

__m512i load512(const void* p) { return _mm512_loadu_si512(p); }

struct RoundedDot {
    using Activation = uint16_t;
    using Weights = __m512bh;

    // Stored bfloat16 is taken as it is. An int8 is exact in bfloat16; an int4's value is rounded.
    template <class F>
    static Weights weights(const F& format, int64_t row, int64_t k) {
        if constexpr (std::is_same_v<typename F::Stored, uint16_t>) {
            return (__m512bh)load512(format.bytes(row, k));
        } else {
            Vec::Reg first, second;
            format.load(row, k, first, second);
            return _mm512_cvtne2ps_pbh(second, first);
        }
    }
    static __m512bh load(const uint16_t* x) { return (__m512bh)load512(x); }
    static Vec::Reg add(Vec::Reg sum, __m512bh weights, __m512bh x) { return _mm512_dpbf16_ps(sum, weights, x); }
};

void linear_rounded(const Matrix& matrix, const uint16_t* x, int64_t ldx, int64_t num_rows, int64_t first,
                    int64_t last, float* out, int64_t ldo, bool accumulate) {
    linear_with<RoundedDot>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
}

// Two columns of bfloat16 activations times compact weights.
struct RoundedPairs {
    using Activation = uint16_t;
    static Vec::Reg add(Vec::Reg sum, Pairs::Reg weights, const uint16_t* x) {
        int32_t both;
        std::memcpy(&both, x, sizeof both);
        return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(both));
    }
};

void linear_compact_rounded(const Matrix& matrix, const uint16_t* x, int64_t ldx, int64_t num_rows, int64_t first,
                            int64_t last, float* out, int64_t ldo, bool accumulate) {
    CompactProduct<RoundedPairs>{matrix, x, ldx, num_rows, first, last, out, ldo, accumulate}.run();
}

void round(const float* x, int64_t count, uint16_t* out) {
    for (int64_t at = 0; at < count; at += Vec::width) {
        const int64_t left = count - at;
        const __mmask16 mask = left < Vec::width ? __mmask16((1u << left) - 1) : __mmask16(0xffff);
        const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + at));
        _mm256_mask_storeu_epi16(out + at, mask, rounded);
    }
}

}  // namespace
