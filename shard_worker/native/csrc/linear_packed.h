// Products of 8-bit activations with packed weights: integers within a block of 32 columns, float32 between blocks.
// Each output is summed up in the order of k whatever is computed beside it. Included once per instruction set.
#pragma once

#include <cstring>

#include "packed.h"

namespace {

using tandem::int4_block_bytes;
using tandem::int4_group_bytes;
using tandem::int8_block_bytes;
using tandem::Matrix;
using tandem::panel_rows;

Int::Reg repeat(const int8_t* four) {
    int32_t bits;
    std::memcpy(&bits, four, sizeof bits);
    return Int::fill(bits);
}

template <int num_rows>
void start(const XBlock* const* blocks, int64_t b, Int::Reg* sums) {
    for (int m = 0; m < num_rows; m++) {
        sums[m] = Int::fill(blocks[m][b].start);
    }
}

// totals[m] += the sums over k for Int::lanes rows, which begin `lane` rows into the panel. With `ahead` the next panel
// is on its way meanwhile.
template <int num_rows, bool ahead>
void panel_int8(const Matrix& matrix, const QuantizedRows& x, const int8_t* const* q, const XBlock* const* blocks,
                int64_t panel, int64_t lane, Vec::Reg* totals) {
    const int64_t num_blocks = x.columns / block_columns;
    const int64_t panel_bytes = num_blocks * int8_block_bytes;
    const uint8_t* weight = static_cast<const uint8_t*>(matrix.weight) + panel * panel_bytes + 4 * lane;
    for (int64_t b = 0; b < num_blocks; b++, weight += int8_block_bytes) {
        Int::Reg sums[num_rows];
        start<num_rows>(blocks, b, sums);
        for (int run = 0; run < 8; run++) {
            const uint8_t* at = weight + 4 * panel_rows * run;
            if constexpr (ahead) {
                __builtin_prefetch(at + panel_bytes);
            }
            const auto weights = Int::int8(at);
            for (int m = 0; m < num_rows; m++) {
                sums[m] = Int::dot(sums[m], weights, repeat(q[m] + b * block_columns + 4 * run));
            }
        }
        for (int m = 0; m < num_rows; m++) {
            totals[m] = Vec::fma(Int::to_float(sums[m]), Vec::fill(blocks[m][b].scale), totals[m]);
        }
    }
    const Vec::Reg scale = Vec::load(static_cast<const float*>(matrix.scale) + panel * panel_rows + lane);
    for (int m = 0; m < num_rows; m++) {
        totals[m] = Vec::mul(totals[m], scale);
    }
}

template <int num_rows, bool ahead>
void panel_int4(const Matrix& matrix, const QuantizedRows& x, const int8_t* const* q, const XBlock* const* blocks,
                int64_t panel, int64_t lane, Vec::Reg* totals) {
    const int64_t group_blocks = matrix.group / block_columns, num_blocks = x.columns / block_columns;
    const int64_t panel_bytes = num_blocks / group_blocks * (int4_group_bytes + group_blocks * int4_block_bytes);
    const uint8_t* weight = static_cast<const uint8_t*>(matrix.weight) + panel * panel_bytes + 4 * lane;
    for (int64_t first = 0; first < num_blocks; first += group_blocks) {
        Vec::Reg scale, zero;
        Int::pairs(weight, scale, zero);
        weight += int4_group_bytes;
        Vec::Reg parts[num_rows];
        float x_sums[num_rows];
        for (int m = 0; m < num_rows; m++) {
            parts[m] = Vec::zero();
            x_sums[m] = 0.0f;
        }
        for (int64_t b = first; b < first + group_blocks; b++, weight += int4_block_bytes) {
            Int::Reg sums[num_rows];
            start<num_rows>(blocks, b, sums);
            for (int run = 0; run < 4; run++) {
                Int::Reg low, high;
                const uint8_t* at = weight + 4 * panel_rows * run;
                if constexpr (ahead) {
                    __builtin_prefetch(at + panel_bytes);
                }
                Int::int4(at, low, high);
                for (int m = 0; m < num_rows; m++) {
                    const int8_t* from = q[m] + b * block_columns + 4 * run;
                    sums[m] = Int::dot4(Int::dot4(sums[m], low, repeat(from)), high, repeat(from + 16));
                }
            }
            for (int m = 0; m < num_rows; m++) {
                const XBlock& block = blocks[m][b];
                parts[m] = Vec::fma(Int::to_float(sums[m]), Vec::fill(block.scale), parts[m]);
                x_sums[m] += block.sum;
            }
        }
        for (int m = 0; m < num_rows; m++) {
            totals[m] = Vec::fma(Vec::fill(x_sums[m]), zero, Vec::fma(parts[m], scale, totals[m]));
        }
    }
}

// out[n] (+)= total[n] for those of a register's rows that lie in [first, last).
void put(Vec::Reg total, int64_t n, int64_t first, int64_t last, float* out, bool accumulate) {
    if (n >= first && n + Vec::width <= last) {
        Vec::store(out + n, accumulate ? Vec::add(Vec::load(out + n), total) : total);
        return;
    }
    float values[Vec::width];
    Vec::store(values, total);
    for (int64_t i = 0; i < Vec::width; i++) {
        if (n + i >= first && n + i < last) {
            out[n + i] = accumulate ? out[n + i] + values[i] : values[i];
        }
    }
}

// Rows [m, m + num_rows) of x times a panel.
template <int num_rows, bool ahead>
__attribute__((noinline)) void panel_of(const Matrix& matrix, const QuantizedRows& x, int64_t m, int64_t panel,
                                        int64_t first, int64_t last, float* out, int64_t ldo, bool accumulate) {
    const int8_t* q[num_rows];
    const XBlock* blocks[num_rows];
    for (int i = 0; i < num_rows; i++) {
        q[i] = x.row(m + i);
        blocks[i] = x.row_blocks(m + i);
    }
    for (int64_t lane = 0; lane < panel_rows; lane += Int::lanes) {
        Vec::Reg totals[num_rows];
        for (int i = 0; i < num_rows; i++) {
            totals[i] = Vec::zero();
        }
        if (matrix.format == int32_t(tandem::Format::packed_int8)) {
            panel_int8<num_rows, ahead>(matrix, x, q, blocks, panel, lane, totals);
        } else {
            panel_int4<num_rows, ahead>(matrix, x, q, blocks, panel, lane, totals);
        }
        for (int i = 0; i < num_rows; i++) {
            put(totals[i], panel * panel_rows + lane, first, last, out + (m + i) * ldo, accumulate);
        }
    }
}

// The same for a number of rows that is known when it is called, `most` at most.
template <bool ahead, int most>
void panel_times(int64_t num_rows, const Matrix& matrix, const QuantizedRows& x, int64_t m, int64_t panel,
                 int64_t first, int64_t last, float* out, int64_t ldo, bool accumulate) {
    if constexpr (most > 1) {
        if (num_rows < most) {
            return panel_times<ahead, most - 1>(num_rows, matrix, x, m, panel, first, last, out, ldo, accumulate);
        }
    }
    panel_of<most, ahead>(matrix, x, m, panel, first, last, out, ldo, accumulate);
}

// From so many rows of x on the processor's prefetchers fall behind.
constexpr int64_t int8_ahead_rows = 9, int4_ahead_rows = 7;

// Rows of x go through a panel in blocks of about the same size. With many of them the last block fetches the next
// panel.
void linear_packed(const Matrix& matrix, const QuantizedRows& x, int64_t first, int64_t last, float* out, int64_t ldo,
                   bool accumulate) {
    static_assert(Int::lanes == Vec::width);
    const bool is_int4 = matrix.format == int32_t(tandem::Format::packed_int4);
    const bool ahead = x.num_rows >= (is_int4 ? int4_ahead_rows : int8_ahead_rows);
    const int64_t num_blocks = (x.num_rows + Int::most_rows - 1) / Int::most_rows;
    for (int64_t panel = first / panel_rows; panel * panel_rows < last; panel++) {
        for (int64_t block = 0, m = 0; block < num_blocks; block++) {
            const int64_t size = (x.num_rows - m) / (num_blocks - block);
            const bool fetches = ahead && block + 1 == num_blocks;
            const auto times = fetches ? panel_times<true, Int::most_rows> : panel_times<false, Int::most_rows>;
            times(size, matrix, x, m, panel, first, last, out, ldo, accumulate);
            m += size;
        }
    }
}

}  // namespace
