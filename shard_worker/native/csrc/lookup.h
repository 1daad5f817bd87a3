// One row of a matrix of any format as float32: a token's embedding.
#pragma once

#include <cstring>

#include "compact.h"

namespace tandem {

inline float widened(uint16_t bfloat16) {
    const uint32_t bits = uint32_t(bfloat16) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// To the nearest bfloat16, ties to even; NaN stays NaN.
inline float rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return value == value ? widened(uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)) : value;
}

// An int4 weight; `pair` is its group's scale and zero.
inline float int4_value(int nibble, float scale, float zero) {
    return float(nibble - 8) * scale + zero;
}

inline float weight_at(const Matrix& matrix, int64_t row, int64_t column) {
    const auto* bytes = static_cast<const uint8_t*>(matrix.weight);
    const int64_t at = row * matrix.columns + column;
    const int64_t panel = row / panel_rows, lane = row % panel_rows, block = column / block_columns;
    const int64_t in_block = column % block_columns, blocks = padded_columns(matrix) / block_columns;
    switch (Format(matrix.format)) {
        case Format::float32:
            return static_cast<const float*>(matrix.weight)[at];
        case Format::bfloat16:
            return widened(static_cast<const uint16_t*>(matrix.weight)[at]);
        case Format::int8:
            return float(static_cast<const int8_t*>(matrix.weight)[at]) * static_cast<const float*>(matrix.scale)[row];
        case Format::int4_bfloat16:
        case Format::int4_float32: {
            const int nibble = bytes[row * ((matrix.columns + 1) / 2) + column / 2] >> (column % 2 ? 4 : 0) & 15;
            const int64_t groups = (matrix.columns + matrix.group - 1) / matrix.group;
            const int64_t pair = 2 * (row * groups + column / matrix.group);
            if (matrix.format == int32_t(Format::int4_float32)) {
                const auto* pairs = static_cast<const float*>(matrix.scale);
                return int4_value(nibble, pairs[pair], pairs[pair + 1]);
            }
            const auto* pairs = static_cast<const uint16_t*>(matrix.scale);
            return int4_value(nibble, widened(pairs[pair]), widened(pairs[pair + 1]));
        }
        case Format::packed_int8: {
            const uint8_t* from = bytes + (panel * blocks + block) * int8_block_bytes;
            const uint8_t q = from[in_block / 4 * 4 * panel_rows + 4 * lane + in_block % 4];
            return float(int(q) - 128) * static_cast<const float*>(matrix.scale)[row];
        }
        case Format::packed_int4: {
            const int64_t group_blocks = matrix.group / block_columns;
            const int64_t group_bytes = int4_group_bytes + group_blocks * int4_block_bytes;
            const uint8_t* group = bytes + (panel * (blocks / group_blocks) + block / group_blocks) * group_bytes;
            const uint8_t* from = group + int4_group_bytes + block % group_blocks * int4_block_bytes;
            const int64_t in_half = in_block % 16;
            const uint8_t both = from[in_half / 4 * 4 * panel_rows + 4 * lane + in_half % 4];
            uint16_t pair[2];
            std::memcpy(pair, group + 4 * lane, sizeof pair);
            return int4_value(in_block < 16 ? both & 15 : both >> 4, widened(pair[0]), widened(pair[1]));
        }
        case Format::compact_bfloat16:
            return widened(compact_stored(CompactPanel(matrix, panel), lane, column));
    }
    return 0.0f;
}

// Exceptions are not in their places: put row `row`'s there.
inline void put_exceptions(const Matrix& matrix, int64_t row, float* out) {
    for (const Exception& exception : CompactPanel(matrix, row / panel_rows)) {
        if (exception.lane == row % panel_rows) {
            out[exception.column] = widened(exception.weight);
        }
    }
}

// out = row `row` of the matrix, as bfloat16 numbers with `rounds`; zeros where the matrix has no such row.
inline void look_up(const Matrix& matrix, int64_t row, bool rounds, float* out) {
    const bool is_here = row >= 0 && row < matrix.rows;
    for (int64_t column = 0; column < matrix.columns; column++) {
        const float weight = is_here ? weight_at(matrix, row, column) : 0.0f;
        out[column] = rounds ? rounded(weight) : weight;
    }
    if (is_here && matrix.is_compact()) {
        put_exceptions(matrix, row, out);
    }
}

}  // namespace tandem
