// Products with compact weights. A lane is a row of the matrix and each sum is one register, added up in the order of k
// whatever is computed beside it; then come the panel's exceptions. Few rows of x: weights are decoded in registers.
// Many: two panels are decoded once into bfloat16 in the cache. Included once per instruction set.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "compact.h"
#include "linear_packed.h"

namespace {

using tandem::compact_columns;
using tandem::CompactPanel;

// Two columns of float32 activations.
struct ExactPairs {
    using Activation = float;
    static Vec::Reg add(Vec::Reg sum, Pairs::Reg weights, const float* x) {
        return Vec::fma(Pairs::odd(weights), Vec::fill(x[1]), Vec::fma(Pairs::even(weights), Vec::fill(x[0]), sum));
    }
};

// The processor's own prefetchers keep up with one or two rows of x, and then further ones are in their way.
constexpr int most_unprefetched_rows = 2;
constexpr int64_t compact_prefetch_bytes = 4096;

// A panel's weights from row `lane` on, decoded a unit at a time.
struct Decoded {
    static constexpr int most_rows = Pairs::decoded_rows, registers = compact_columns / 2;
    static constexpr int next_fewer(int rows) { return rows - 1; }

    Decoded(const CompactPanel& panel, int64_t lane, const uint32_t*)
        : unit(panel.unit(0) + 4 * lane), stride(panel.place.stride), table(Pairs::table(panel.header().table)) {}
    void next(Pairs::Reg* weights) {
        Pairs::decode(unit, table, weights);
        unit += stride;
    }
    void prefetch() const {
        for (int64_t at = 0; at < tandem::compact_unit_bytes; at += 64) {
            __builtin_prefetch(unit + compact_prefetch_bytes + at);
        }
    }

    const uint8_t* unit;
    int64_t stride;
    Pairs::Table table;
};

// The same from where `expand` wrote them, [columns / 2, 16 rows] of two columns each.
struct Expanded {
    static constexpr int most_rows = Pairs::expanded_rows, registers = 1;
    static constexpr int next_fewer(int rows) { return rows == 12 ? 8 : rows / 2; }

    Expanded(const CompactPanel&, int64_t lane, const uint32_t* from) : at(from + lane) {}
    void next(Pairs::Reg* weights) {
        weights[0] = Pairs::load(at);
        at += panel_rows;
    }
    void prefetch() const {}

    const uint32_t* at;
};

int64_t expanded_size(int64_t columns) {
    return tandem::compact_units(columns) * Decoded::registers * panel_rows;
}

void expand(const CompactPanel& panel, int64_t columns, uint32_t* to) {
    for (int64_t lane = 0; lane < panel_rows; lane += Vec::width) {
        Decoded weights(panel, lane, nullptr);
        for (int64_t unit = 0; unit < tandem::compact_units(columns); unit++) {
            Pairs::Reg decoded[Decoded::registers];
            weights.prefetch();
            weights.next(decoded);
            for (int i = 0; i < Decoded::registers; i++) {
                Pairs::store(to + (unit * Decoded::registers + i) * panel_rows + lane, decoded[i]);
            }
        }
    }
}

// sums[p][m] += the products of `columns` columns, a multiple of a unit's, of row m of x and panel p.
template <class Dot, class Source, int num_rows, int num_panels>
void add_columns(Source* sources, const typename Dot::Activation* x, int64_t ldx, int64_t columns,
                 Vec::Reg (&sums)[num_panels][num_rows]) {
    for (int64_t k = 0; k < columns; k += 2 * Source::registers) {
        Pairs::Reg weights[num_panels][Source::registers];
        for (int p = 0; p < num_panels; p++) {
            if constexpr (num_rows > most_unprefetched_rows) {
                sources[p].prefetch();
            }
            sources[p].next(weights[p]);
        }
        for (int i = 0; i < Source::registers; i++) {
            for (int m = 0; m < num_rows; m++) {
                for (int p = 0; p < num_panels; p++) {
                    sums[p][m] = Dot::add(sums[p][m], weights[p][i], x + m * ldx + k + 2 * i);
                }
            }
        }
    }
}

// total += what exceptions are more than their placeholders, times x. `lane` is the row that total[0] is.
template <class Activation>
Vec::Reg corrected(const CompactPanel& panel, int64_t lane, const Activation* x, Vec::Reg total) {
    if (panel.begin() == panel.end()) {
        return total;
    }
    float values[Vec::width];
    Vec::store(values, total);
    for (const tandem::Exception& exception : panel) {
        const int64_t at = exception.lane - lane;
        if (at >= 0 && at < Vec::width) {
            const float more = widen(exception.weight) - widen(panel.header().placeholder);
            values[at] = Vec::fma1(more, widen(x[exception.column]), values[at]);
        }
    }
    return Vec::load(values);
}

template <class Dot>
struct CompactProduct {
    using Activation = typename Dot::Activation;

    const Matrix& matrix;
    const Activation* x;
    int64_t ldx, num_rows, first, last;
    float* out;
    int64_t ldo;
    bool accumulate;

    // All rows of x, from m on, times panels from `panel` on; most_rows at a time, then what is left.
    template <class Source, int num_panels, int most_rows = Source::most_rows>
    void rows(int64_t panel, const uint32_t* expanded, int64_t m = 0) const {
        for (; m + most_rows <= num_rows; m += most_rows) {
            block<Source, most_rows, num_panels>(panel, expanded, m);
        }
        if constexpr (most_rows > 1) {
            rows<Source, num_panels, Source::next_fewer(most_rows)>(panel, expanded, m);
        }
    }

    // By itself: put into its callers, GCC 12 makes the loops for one to three rows half as fast.
    template <class Source, int rows, int num_panels>
    __attribute__((noinline)) void block(int64_t panel, const uint32_t* expanded, int64_t m) const {
        const int64_t whole = matrix.columns / compact_columns * compact_columns;
        const Activation* from = x + m * ldx;
        for (int64_t lane = 0; lane < panel_rows; lane += Vec::width) {
            Vec::Reg sums[num_panels][rows];
            for (int p = 0; p < num_panels; p++) {
                for (int i = 0; i < rows; i++) {
                    sums[p][i] = Vec::zero();
                }
            }
            const CompactPanel one(matrix, panel), other(matrix, panel + num_panels - 1);
            const int64_t apart = (num_panels - 1) * expanded_size(matrix.columns);
            Source sources[] = {Source(one, lane, expanded), Source(other, lane, expanded + apart)};
            add_columns<Dot, Source, rows, num_panels>(sources, from, ldx, whole, sums);
            if (whole < matrix.columns) {
                Activation rest[rows * compact_columns] = {};
                for (int i = 0; i < rows; i++) {
                    std::copy(from + i * ldx + whole, from + i * ldx + matrix.columns, rest + i * compact_columns);
                }
                add_columns<Dot, Source, rows, num_panels>(sources, rest, compact_columns, compact_columns, sums);
            }
            for (int p = 0; p < num_panels; p++) {
                for (int i = 0; i < rows; i++) {
                    const Vec::Reg total = corrected(p ? other : one, lane, from + i * ldx, sums[p][i]);
                    put(total, (panel + p) * panel_rows + lane, first, last, out + (m + i) * ldo, accumulate);
                }
            }
        }
    }

    void run() const {
        constexpr int64_t few_rows = 2 * Pairs::decoded_rows;
        const int64_t size = expanded_size(matrix.columns);
        std::vector<uint32_t> expanded(num_rows > few_rows ? 2 * size : 0);
        int64_t panel = first / panel_rows;
        const int64_t end = (last + panel_rows - 1) / panel_rows;
        while (panel < end) {
            const bool both = panel % 2 == 0 && panel + 2 <= end;
            if (num_rows > few_rows) {
                expand(CompactPanel(matrix, panel), matrix.columns, expanded.data());
                if (both) {
                    expand(CompactPanel(matrix, panel + 1), matrix.columns, expanded.data() + size);
                    rows<Expanded, 2>(panel, expanded.data());
                } else {
                    rows<Expanded, 1>(panel, expanded.data());
                }
            } else if (both) {
                rows<Decoded, 2>(panel, nullptr);
            } else {
                rows<Decoded, 1>(panel, nullptr);
            }
            panel += both ? 2 : 1;
        }
    }
};

void linear_compact(const Matrix& matrix, const float* x, int64_t ldx, int64_t num_rows, int64_t first, int64_t last,
                    float* out, int64_t ldo, bool accumulate) {
    CompactProduct<ExactPairs>{matrix, x, ldx, num_rows, first, last, out, ldo, accumulate}.run();
}

}  // namespace
