// What lies between the products: root mean square norm, SwiGLU's gate and the exponential they need.
// Included once per instruction set.
#pragma once

#include <cstdint>

namespace {

// e^x to about 2 units in the last place: 2^n e^r with |r| <= ln(2) / 2 (Cody and Waite 1980). NaN stays NaN.
Vec::Reg exponential(Vec::Reg x) {
    x = Vec::max(Vec::fill(-87.0f), x);
    Vec::Reg capped = Vec::mul(Vec::fill(-1.0f), Vec::max(Vec::fill(-88.0f), Vec::mul(Vec::fill(-1.0f), x)));
    Vec::Reg n = Vec::nearest(Vec::mul(capped, Vec::fill(1.44269504f)));
    Vec::Reg r = Vec::fma(n, Vec::fill(-0.693359375f), capped);
    r = Vec::fma(n, Vec::fill(2.12194440e-4f), r);
    Vec::Reg p = Vec::fill(1.0f / 5040);
    constexpr float coefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    for (float coefficient : coefficients) {
        p = Vec::fma(p, r, Vec::fill(coefficient));
    }
    return Vec::mul(p, Vec::power_of_two(n));
}

void norm(const float* x, const float* weight, float eps, int64_t width, float* out) {
    Vec::Reg squares = Vec::zero();
    int64_t at = 0;
    for (; at + Vec::width <= width; at += Vec::width) {
        squares = Vec::fma(Vec::load(x + at), Vec::load(x + at), squares);
    }
    float total = Vec::sum(squares);
    for (; at < width; at++) {
        total = Vec::fma1(x[at], x[at], total);
    }
    const float inverse = 1.0f / __builtin_sqrtf(total / float(width) + eps);
    for (at = 0; at < width; at++) {
        out[at] = x[at] * inverse * weight[at];
    }
}

Vec::Reg silu_times(Vec::Reg gate, Vec::Reg up) {
    Vec::Reg denominator = Vec::add(Vec::fill(1.0f), exponential(Vec::mul(Vec::fill(-1.0f), gate)));
    return Vec::mul(Vec::div(gate, denominator), up);
}

void silu_mul(const float* gate, const float* up, int64_t count, float* out) {
    int64_t at = 0;
    for (; at + Vec::width <= count; at += Vec::width) {
        Vec::store(out + at, silu_times(Vec::load(gate + at), Vec::load(up + at)));
    }
    if (at < count) {
        float rest[2][Vec::width] = {}, result[Vec::width];
        for (int64_t i = at; i < count; i++) {
            rest[0][i - at] = gate[i];
            rest[1][i - at] = up[i];
        }
        Vec::store(result, silu_times(Vec::load(rest[0]), Vec::load(rest[1])));
        for (int64_t i = at; i < count; i++) {
            out[i] = result[i - at];
        }
    }
}

}  // namespace
