// Quantised weights in the order in which integer products take them, and activations in blocks of 8-bit integers.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace tandem {

// A panel is this many rows of a matrix side by side: one lane each, so that no sum is ever taken across lanes.
constexpr int64_t panel_rows = 16;
// Columns that share a scale of x, as in llama.cpp's Q8_0.
constexpr int64_t block_columns = 32;
// An int8 block of a panel: [8 runs, 16 rows, 4 columns] of q + 128.
constexpr int64_t int8_block_bytes = panel_rows * block_columns;
// An int4 block: [4 runs, 16 rows, 4 columns] of two nibbles: the low one is column 4 * run + i, the high one 16 later.
constexpr int64_t int4_block_bytes = panel_rows * block_columns / 2;
// Before each group's blocks: [16 rows, 2] bfloat16, scale and zero.
constexpr int64_t int4_group_bytes = panel_rows * 4;

inline int64_t padded_columns(const Matrix& matrix) {
    const int64_t unit = matrix.format == int32_t(Format::packed_int4) ? matrix.group : block_columns;
    return (matrix.columns + unit - 1) / unit * unit;
}

// x is q * scale in each block.
struct XBlock {
    float scale;
    int32_t start;  // what a sum of products begins with, so that the weights' offset cancels out exactly
    float sum;      // of the block's x, as rounded
};

// Rows of x, [num_rows, columns] with `columns` padded.
struct QuantizedRows {
    int64_t num_rows, columns;
    int8_t* q;
    XBlock* blocks;  // [num_rows, columns / block_columns]

    const int8_t* row(int64_t m) const { return q + m * columns; }
    const XBlock* row_blocks(int64_t m) const { return blocks + m * (columns / block_columns); }
};

}  // namespace tandem
