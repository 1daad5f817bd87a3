// How the weights of each format become float32 registers, two at a time. Included once per instruction set.
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

// A format gives two registers of weights at column k, one weight at any column, and a factor for the sum. What it
// stores is `Stored`, or void where that is not a number by itself.
template <class T>
struct Dense {
    using Stored = T;
    explicit Dense(const Matrix& matrix) : matrix(matrix) {}
    const char* row(int64_t row) const { return bytes(row, 0); }
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
    using Stored = void;
    explicit Int4(const Matrix& matrix)
        : matrix(matrix), groups((matrix.columns + matrix.group - 1) / matrix.group), stride((matrix.columns + 1) / 2),
          shift(__builtin_ctz(unsigned(matrix.group))) {}
    const char* row(int64_t row) const { return bytes(row, 0); }
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

}  // namespace
