// bfloat16 weights at 12 bits each, without loss. Of a weight's two bytes the high one (sign and upper seven bits of the
// exponent) takes few values: the 16 most frequent of a panel are its table, and a code of 4 bits says which. The low
// byte (last bit of the exponent, mantissa) is kept as it is. A weight whose high byte is not in the table is an
// exception: a placeholder stands in its place, and the product is corrected by the difference. That exponents of
// trained weights hold 2 to 3 bits is ZipNN's finding (Hershcovitch et al. 2024, arXiv:2411.05239); multiplying by them
// compressed is DFloat11's idea (Zhang et al. 2025, arXiv:2504.11651), whose codes of changing length suit GPUs only.
#pragma once

#include <cstdint>

#include "packed.h"

namespace tandem {

// A unit of a panel, 16 rows by 8 columns: 64 bytes of codes, then twice 64 low bytes. Byte 16 q + 8 h + 2 i + j of the
// r-th low bytes is row 4 q + i, column 4 r + 2 h + j; its code is in the same byte of the codes, in the low nibble
// where r is 0. So interleaving low and high bytes by halves of 128 bits makes 32-bit lanes of two columns of a row.
constexpr int64_t compact_columns = 8;
constexpr int64_t compact_code_bytes = 64, compact_low_bytes = 64;
constexpr int64_t compact_unit_bytes = compact_code_bytes + 2 * compact_low_bytes;

// What a panel has before its units.
struct CompactHeader {
    uint8_t table[16];     // high bytes by code
    int32_t first, last;   // the panel's exceptions, sorted by lane, then column
    uint16_t placeholder;  // the bfloat16 in their places: small and finite
    uint8_t unused[38];
};
static_assert(sizeof(CompactHeader) == 64);

struct Exception {
    int32_t column;
    uint16_t lane;    // row of the panel
    uint16_t weight;  // the true bfloat16
};
static_assert(sizeof(Exception) == 8);

inline int64_t compact_units(int64_t columns) {
    return (columns + compact_columns - 1) / compact_columns;
}

inline int64_t compact_panel_bytes(int64_t columns) {
    return int64_t(sizeof(CompactHeader)) + compact_units(columns) * compact_unit_bytes;
}

// Where a panel lies. Two panels, which a product takes side by side, are one run of memory: both headers, then a unit
// of the one, a unit of the other, and so on. Memory gives half as much again to one stream as to two. An odd matrix's
// last panel lies alone.
struct CompactPlace {
    CompactPlace(int64_t rows, int64_t columns, int64_t panel) {
        const bool is_paired = (panel | 1) * panel_rows < rows;
        const int64_t second = is_paired ? panel & 1 : 0, side_by_side = is_paired ? 2 : 1;
        header = (panel - second) * compact_panel_bytes(columns) + second * int64_t(sizeof(CompactHeader));
        units = header + (side_by_side - second) * int64_t(sizeof(CompactHeader)) + second * compact_unit_bytes;
        stride = side_by_side * compact_unit_bytes;
    }

    int64_t header, units, stride;  // bytes from the matrix's begin, and from one unit to the next
};

// One panel of a matrix whose `weight` is [panels, compact_panel_bytes] and whose `scale` is its exceptions.
struct CompactPanel {
    CompactPanel(const Matrix& matrix, int64_t panel)
        : bytes(static_cast<const uint8_t*>(matrix.weight)), place(matrix.rows, matrix.columns, panel),
          exceptions(static_cast<const Exception*>(matrix.scale)) {}

    const CompactHeader& header() const { return *reinterpret_cast<const CompactHeader*>(bytes + place.header); }
    const uint8_t* unit(int64_t index) const { return bytes + place.units + index * place.stride; }
    const Exception* begin() const { return exceptions + header().first; }
    const Exception* end() const { return exceptions + header().last; }

    const uint8_t* bytes;
    const CompactPlace place;
    const Exception* exceptions;
};

// Where in a unit a weight's low byte is, after the codes; its code is at the same place modulo compact_low_bytes.
inline int64_t compact_place(int64_t lane, int64_t column_of_unit) {
    return column_of_unit / 4 * compact_low_bytes + lane / 4 * 16 + column_of_unit % 4 / 2 * 8 + lane % 4 * 2 +
           column_of_unit % 2;
}

// Make `weight`, bfloat16[rows, columns], compact. `out` has room for all panels, `exceptions` for `most`. Returns the
// number of exceptions, or -1 where there are more.
class Team;
int64_t make_compact(Team& team, const uint16_t* weight, int64_t rows, int64_t columns, uint8_t* out,
                     Exception* exceptions, int64_t most);

// A weight as it is stored: an exception's placeholder.
inline uint16_t compact_stored(const CompactPanel& panel, int64_t lane, int64_t column) {
    const uint8_t* unit = panel.unit(column / compact_columns);
    const int64_t place = compact_place(lane, column % compact_columns);
    const uint8_t both = unit[place % compact_low_bytes];
    const int code = place < compact_low_bytes ? both & 15 : both >> 4;
    return uint16_t(panel.header().table[code] << 8 | unit[compact_code_bytes + place]);
}

}  // namespace tandem
