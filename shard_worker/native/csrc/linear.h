// Weight-only matrix products for few rows: x[M, K] float32 times w[N, K] in any format.
// A weight is widened to float32 in registers and used for up to `block_rows` rows of x; each product's sum is
// one register, added up in the order of k whatever is computed beside it. Included once per instruction set.
#pragma once

#include <cstring>

#include "kernels.h"

namespace {

using tandem::Format;
using tandem::Matrix;

float from_bfloat16(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

float widen(float x) { return x; }
float widen(uint16_t x) { return from_bfloat16(x); }
float widen(int8_t x) { return float(x); }

// A format gives two registers of weights at column k, one weight at any column, and a factor for the sum.
template <class T>
struct Dense {
    explicit Dense(const Matrix& matrix) : matrix(matrix) {}
    const char* bytes(int64_t row, int64_t k) const {
        return reinterpret_cast<const char*>(static_cast<const T*>(matrix.weight) + row * matrix.columns + k);
    }
    void load(int64_t row, int64_t k, Vec::Reg& first, Vec::Reg& second) const {
        const T* at = reinterpret_cast<const T*>(bytes(row, k));
        first = Vec::load(at);
        second = Vec::load(at + Vec::width);
    }
    float one(int64_t row, int64_t k) const { return widen(*reinterpret_cast<const T*>(bytes(row, k))); }
    float factor(int64_t row) const {
        return sizeof(T) == 1 ? static_cast<const float*>(matrix.scale)[row] : 1.0f;
    }
    const Matrix& matrix;
};

template <class S>
struct Int4 {
    explicit Int4(const Matrix& matrix)
        : matrix(matrix), groups((matrix.columns + matrix.group - 1) / matrix.group), stride((matrix.columns + 1) / 2),
          shift(__builtin_ctz(unsigned(matrix.group))) {}
    const char* bytes(int64_t row, int64_t k) const {
        return static_cast<const char*>(matrix.weight) + row * stride + k / 2;
    }
    const S* pair(int64_t row, int64_t k) const {
        return static_cast<const S*>(matrix.scale) + 2 * (row * groups + (k >> shift));
    }
    void load(int64_t row, int64_t k, Vec::Reg& even, Vec::Reg& odd) const {
        const S* of = pair(row, k);
        Vec::load_int4(reinterpret_cast<const uint8_t*>(bytes(row, k)), widen(of[0]), widen(of[1]), even, odd);
    }
    float one(int64_t row, int64_t k) const {
        const S* of = pair(row, k);
        int q = (uint8_t(*bytes(row, k)) >> (k % 2 ? 4 : 0)) & 15;
        return Vec::fma1(float(q - 8), widen(of[0]), widen(of[1]));
    }
    float factor(int64_t) const { return 1.0f; }
    const Matrix& matrix;
    int64_t groups, stride;
    int shift;
};

template <class F, int num_rows, int num_outputs>
void block(const F& format, const float* x, int64_t ldx, int64_t n, float* out, int64_t ldo, bool accumulate) {
    constexpr int step = 2 * Vec::width;
    const int64_t columns = format.matrix.columns;
    Vec::Reg sums[num_outputs][num_rows];
    for (int j = 0; j < num_outputs; j++) {
        for (int m = 0; m < num_rows; m++) {
            sums[j][m] = Vec::zero();
        }
    }
    int64_t k = 0;
    for (; k + step <= columns; k += step) {
        for (int j = 0; j < num_outputs; j++) {
            Vec::Reg first, second;
            format.load(n + j, k, first, second);
            __builtin_prefetch(format.bytes(n + j, k) + 2048);
            for (int m = 0; m < num_rows; m++) {
                sums[j][m] = Vec::fma(first, Vec::load(x + m * ldx + k), sums[j][m]);
            }
            for (int m = 0; m < num_rows; m++) {
                sums[j][m] = Vec::fma(second, Vec::load(x + m * ldx + k + Vec::width), sums[j][m]);
            }
        }
    }
    for (int j = 0; j < num_outputs; j++) {
        for (int m = 0; m < num_rows; m++) {
            float total = Vec::sum(sums[j][m]);
            for (int64_t rest = k; rest < columns; rest++) {
                total = Vec::fma1(x[m * ldx + rest], format.one(n + j, rest), total);
            }
            total *= format.factor(n + j);
            float& cell = out[m * ldo + n + j];
            cell = accumulate ? cell + total : total;
        }
    }
}

template <class F, int num_outputs>
void outputs(const F& format, const float* x, int64_t ldx, int64_t num_rows, int64_t n, float* out, int64_t ldo,
             bool accumulate) {
    int64_t m = 0;
    if constexpr (Vec::block_rows >= 8) {
        for (; m + 8 <= num_rows; m += 8) {
            block<F, 8, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate);
        }
    }
    if constexpr (Vec::block_rows >= 4) {
        for (; m + 4 <= num_rows; m += 4) {
            block<F, 4, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate);
        }
    }
    for (; m + 2 <= num_rows; m += 2) {
        block<F, 2, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate);
    }
    if (m < num_rows) {
        block<F, 1, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate);
    }
}

template <class F>
void linear_of(const Matrix& matrix, const float* x, int64_t ldx, int64_t num_rows, int64_t first, int64_t last,
               float* out, int64_t ldo, bool accumulate) {
    const F format(matrix);
    const bool wide = num_rows >= Vec::block_rows;
    int64_t n = first;
    // Few rows: four outputs at once hide the latency of a sum. Many: fewer, or the sums leave the registers.
    for (; !wide && n + 4 <= last; n += 4) {
        outputs<F, 4>(format, x, ldx, num_rows, n, out, ldo, accumulate);
    }
    constexpr int beside = Vec::block_rows >= 8 ? 3 : 2;
    for (; n + beside <= last; n += beside) {
        outputs<F, beside>(format, x, ldx, num_rows, n, out, ldo, accumulate);
    }
    for (; n < last; n++) {
        outputs<F, 1>(format, x, ldx, num_rows, n, out, ldo, accumulate);
    }
}

void linear(const Matrix& matrix, const float* x, int64_t ldx, int64_t num_rows, int64_t first, int64_t last,
            float* out, int64_t ldo, bool accumulate) {
    switch (Format(matrix.format)) {
        case Format::float32:
            return linear_of<Dense<float>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::bfloat16:
            return linear_of<Dense<uint16_t>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::int8:
            return linear_of<Dense<int8_t>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::int4_bfloat16:
            return linear_of<Int4<uint16_t>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::int4_float32:
            return linear_of<Int4<float>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
    }
}

// Of each run of 2 * width columns the even ones first, then the odd ones; what is left over stays as it is.
void arrange(float* x, int64_t ldx, int64_t num_rows, int64_t columns) {
    constexpr int step = 2 * Vec::width;
    float run[step];
    for (int64_t m = 0; m < num_rows; m++) {
        for (int64_t k = 0; k + step <= columns; k += step) {
            float* at = x + m * ldx + k;
            std::memcpy(run, at, sizeof run);
            for (int i = 0; i < Vec::width; i++) {
                at[i] = run[2 * i];
                at[Vec::width + i] = run[2 * i + 1];
            }
        }
    }
}

}  // namespace
