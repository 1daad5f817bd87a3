// Sums of four products of bytes a lane, by the processor's own instruction (AVX-512 VNNI).
#pragma once

#include "int_avx512.h"

namespace {

struct IntVnni : IntAvx512 {
    static Reg int8(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static Reg dot(Reg sum, Reg weights, Reg x) { return _mm512_dpbusd_epi32(sum, weights, x); }
    static Reg dot4(Reg sum, Reg weights, Reg x) { return dot(sum, weights, x); }
};

}  // namespace
