// Eight floats in an array: every processor, through what the compiler vectorises by itself (SSE2, NEON).
#pragma once

#include <cstdint>
#include <cstring>

namespace {

struct Vec {
    static constexpr int width = 8;
    static constexpr int block_rows = 2;
    struct Reg {
        float at[width];
    };

    static Reg zero() { return fill(0.0f); }
    static Reg fill(float x) {
        return make([x](int) { return x; });
    }
    static Reg load(const float* p) {
        return make([p](int i) { return p[i]; });
    }
    static void store(float* p, Reg a) { std::memcpy(p, a.at, sizeof a.at); }
    static Reg add(Reg a, Reg b) {
        return make([&](int i) { return a.at[i] + b.at[i]; });
    }
    static Reg mul(Reg a, Reg b) {
        return make([&](int i) { return a.at[i] * b.at[i]; });
    }
    static Reg div(Reg a, Reg b) {
        return make([&](int i) { return a.at[i] / b.at[i]; });
    }
    static Reg fma(Reg a, Reg b, Reg c) {
        return make([&](int i) { return a.at[i] * b.at[i] + c.at[i]; });
    }
    static Reg max(Reg a, Reg b) {  // b where either is NaN, as the x86 instruction has it
        return make([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static float fma1(float a, float b, float c) { return a * b + c; }
    static float sum(Reg a) {
        return ((a.at[0] + a.at[4]) + (a.at[2] + a.at[6])) + ((a.at[1] + a.at[5]) + (a.at[3] + a.at[7]));
    }
    static void sum4(const Reg* a, float* out) {
        for (int i = 0; i < 4; i++) {
            out[i] = sum(a[i]);
        }
    }

    static Reg load(const uint16_t* bfloat16) {
        return make([bfloat16](int i) { return from_bits(uint32_t(bfloat16[i]) << 16); });
    }
    static Reg load(const int8_t* q) {
        return make([q](int i) { return float(q[i]); });
    }
    static void load_int4(const uint8_t* q, float scale, float zero, Reg& even, Reg& odd) {
        even = make([&](int i) { return float(int(q[i] & 15) - 8) * scale + zero; });
        odd = make([&](int i) { return float(int(q[i] >> 4) - 8) * scale + zero; });
    }

    static Reg power_of_two(Reg n) {
        return make([&](int i) { return from_bits(uint32_t(int32_t(n.at[i] + 127.0f)) << 23); });
    }
    static Reg nearest(Reg a) {  // adding 1.5 * 2^23 leaves no bits for a fraction
        return make([&](int i) { return (a.at[i] + 12582912.0f) - 12582912.0f; });
    }

  private:
    template <class Value>
    static Reg make(Value value) {
        Reg made;
        for (int i = 0; i < width; i++) {
            made.at[i] = value(i);
        }
        return made;
    }
    static float from_bits(uint32_t bits) {
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
};

}  // namespace
