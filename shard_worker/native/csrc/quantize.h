// Activations as 8-bit integers, a scale for each 32 columns of a row. Included once per instruction set.
#pragma once

#include "packed.h"

namespace {

using tandem::block_columns;
using tandem::QuantizedRows;
using tandem::XBlock;

// Round 32 numbers to multiples of their largest magnitude / 127. A number that is not finite makes the scale NaN.
void quantize_block(const float* x, int32_t offset, int8_t* q, XBlock& block) {
    Vec::Reg largest = Vec::zero(), poison = Vec::zero();
    for (int64_t at = 0; at < block_columns; at += Vec::width) {
        const Vec::Reg value = Vec::load(x + at);
        poison = Vec::fma(value, Vec::zero(), poison);
        largest = Vec::max(Vec::max(value, Vec::mul(value, Vec::fill(-1.0f))), largest);
    }
    float lanes[Vec::width], magnitude = 0.0f;
    Vec::store(lanes, largest);
    for (float lane : lanes) {
        magnitude = lane > magnitude ? lane : magnitude;
    }
    const bool usable = magnitude >= 1e-30f && magnitude <= 1e30f;
    const Vec::Reg inverse = Vec::fill(usable ? 127.0f / magnitude : 0.0f);
    float rounded[block_columns];
    for (int64_t at = 0; at < block_columns; at += Vec::width) {
        const Vec::Reg steps = Vec::nearest(Vec::mul(Vec::load(x + at), inverse));
        Vec::store(rounded + at, Vec::max(steps, Vec::fill(-127.0f)));  // NaN becomes -127, which a NaN scale undoes
    }
    int32_t sum = 0;
    for (int64_t at = 0; at < block_columns; at++) {
        const int32_t value = int32_t(rounded[at]);
        q[at] = int8_t(value);
        sum += value;
    }
    block.scale = (usable ? magnitude / 127.0f : 0.0f) + Vec::sum(poison);
    block.start = -offset * sum;
    block.sum = float(sum) * block.scale;
}

void quantize(const tandem::Matrix& matrix, const float* x, int64_t first, int64_t last, const QuantizedRows& to) {
    const bool is_int4 = matrix.format == int32_t(tandem::Format::packed_int4);
    const int32_t offset = is_int4 ? 8 : Int::int8_offset;
    const int64_t num_blocks = to.columns / block_columns, whole = matrix.columns / block_columns;
    for (int64_t m = first; m < last; m++) {
        const float* row = x + m * matrix.columns;
        for (int64_t b = 0; b < num_blocks; b++) {
            float padded[block_columns] = {};
            for (int64_t k = b * block_columns; b >= whole && k < matrix.columns; k++) {
                padded[k - b * block_columns] = row[k];
            }
            const float* from = b < whole ? row + b * block_columns : padded;
            quantize_block(from, offset, to.q + m * to.columns + b * block_columns, to.blocks[m * num_blocks + b]);
        }
    }
}

}  // namespace
