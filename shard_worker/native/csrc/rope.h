// Rotary position embedding (Su et al. 2021), half-split layout, and the write into the paged cache.
#pragma once

#include <cstdint>
#include <cstring>

#include "decoder.h"

namespace tandem {

// Rotate a token's query and key heads, which lie one after the other, in place.
inline void rotate_heads(const Model& model, int64_t position, float* heads) {
    const int64_t half = model.head_dim / 2;
    const float* cos = model.cos + position * half;
    const float* sin = model.sin + position * half;
    for (int64_t head = 0; head < model.query_heads + model.kv_heads; head++) {
        float* first = heads + head * model.head_dim;
        float* second = first + half;
        for (int64_t i = 0; i < half; i++) {
            const float a = first[i], b = second[i];
            first[i] = a * cos[i] - b * sin[i];
            second[i] = b * cos[i] + a * sin[i];
        }
    }
}

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return uint16_t(bits >> 16 | 0x40u);
    }
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Write a token's keys and values, [2 * kv_heads, head_dim], into its slot.
inline void store_heads(const Model& model, void* cache, int64_t slot, const float* kv) {
    const int64_t count = 2 * model.kv_heads * model.head_dim;
    if (!model.cache_is_bfloat16) {
        std::memcpy(static_cast<float*>(cache) + slot * count, kv, count * sizeof(float));
        return;
    }
    uint16_t* out = static_cast<uint16_t*>(cache) + slot * count;
    for (int64_t i = 0; i < count; i++) {
        out[i] = to_bfloat16(kv[i]);
    }
}

}  // namespace tandem
