// What the step driver asks of a processor: one table of kernels per instruction set, chosen at run time.
#pragma once

#include <cstdint>

namespace tandem {

enum class Format : int32_t {
    float32 = 0,
    bfloat16 = 1,
    int8 = 2,
    int4_bfloat16 = 3,
    int4_float32 = 4,
    packed_int8 = 5,
    packed_int4 = 6,
    compact_bfloat16 = 7
};

// A weight matrix [rows, columns], row-major. The caller keeps its memory alive.
//   float32, bfloat16: `weight` is the matrix.
//   int8: `weight` int8[rows, columns], `scale` float32[rows]; w = q * scale.
//   int4: `weight` uint8[rows, ceil(columns / 2)], low nibble first; `scale` holds [rows, groups, 2] pairs
//         (scale, zero) of bfloat16 or float32; w = (q - 8) * scale + zero. `group` is a multiple of 32.
//   compact: as compact.h has it; `rows` and `columns` without padding, `scale` the exceptions.
//   packed: as packed.h has it; `rows` and `columns` without padding, `scale` with, and null for int4.
struct Matrix {
    int32_t format;
    int32_t group;
    int64_t rows;
    int64_t columns;
    const void* weight;
    const void* scale;

    bool is_int4() const {
        return format == int32_t(Format::int4_bfloat16) || format == int32_t(Format::int4_float32);
    }
    // Whether rows lie in panels of 16, and whether products are of integers then.
    bool is_packed() const { return format >= int32_t(Format::packed_int8); }
    bool is_compact() const { return format == int32_t(Format::compact_bfloat16); }
    bool takes_integers() const { return is_packed() && !is_compact(); }
};

// Positions of a context that one task takes at most; a multiple of every register's width.
constexpr int64_t attention_stretch = 64;

// One query group of one token against one stretch of its context.
struct AttentionTask {
    const float* query;           // [queries, head_dim], rotated
    const void* cache;            // the layer's slots, [slots, 2 * kv_heads, head_dim]
    const int32_t* blocks;        // the sequence's block table
    int64_t block_size;
    int64_t kv_heads, kv_head, head_dim, queries;
    int64_t start, stop;          // positions [start, stop)
    float* scores;                // scratch [queries, attention_stretch]
    float* out;                   // [queries, head_dim + 2]: unnormalised sum, then maximum, then sum of weights
};

// How many ids a slice of the vocabulary has, which is the first, and how many of the best are listed. Where `ids` is
// not null, it has those [size] ids instead, rising, and any up to a multiple of 64 behind them.
struct DrawShape {
    int64_t size, first_id, num_noised, num_top, num_raw;
    const int32_t* ids;

    int64_t id(int64_t index) const { return ids ? ids[index] : first_id + index; }
};

// One sampled position: its logits after penalties and biases, as the model gave them, and where its records go.
struct DrawRow {
    const float* logits;
    const float* raw;
    float divisor;
    bool noised;
    uint64_t seed;
    int64_t position;
    int32_t* noised_ids;
    float* noised_scores;
    float* noised_processed;
    float* noised_raw;
    int32_t* top_ids;
    float* top_processed;
    int32_t* raw_ids;
    float* raw_logits;
    float* processed_lse;
    float* raw_lse;
};

struct QuantizedRows;

// Activations are float32 and so is every sum, but for packed matrices. A result never depends on the other rows of a
// call.
struct Kernels {
    const char* name;
    // out[m, n] (+)= sum over k of x[m, k] w[n, k] for rows n in [first, last); x as `arrange` left it.
    void (*linear)(const Matrix& matrix, const float* x, int64_t ldx, int64_t num_rows, int64_t first, int64_t last,
                   float* out, int64_t ldo, bool accumulate);
    // The same of activations that `round` made bfloat16, which take half the time. Null where the processor cannot.
    void (*linear_rounded)(const Matrix& matrix, const uint16_t* x, int64_t ldx, int64_t num_rows, int64_t first,
                           int64_t last, float* out, int64_t ldo, bool accumulate);
    void (*round)(const float* x, int64_t count, uint16_t* out);
    // Put each of x's rows into the order in which a 4-bit matrix is unpacked. In place.
    void (*arrange)(float* x, int64_t ldx, int64_t num_rows, int64_t columns);
    // Make rows [first, last) of x, [rows, matrix.columns], 8-bit integers for products with a packed matrix, and
    // multiply by those. Both null where there are no such products.
    void (*quantize)(const Matrix& matrix, const float* x, int64_t first, int64_t last, const QuantizedRows& to);
    void (*linear_packed)(const Matrix& matrix, const QuantizedRows& x, int64_t first, int64_t last, float* out,
                          int64_t ldo, bool accumulate);
    // `linear` and `linear_rounded` for compact matrices; null where these are.
    void (*linear_compact)(const Matrix& matrix, const float* x, int64_t ldx, int64_t num_rows, int64_t first,
                           int64_t last, float* out, int64_t ldo, bool accumulate);
    void (*linear_compact_rounded)(const Matrix& matrix, const uint16_t* x, int64_t ldx, int64_t num_rows,
                                   int64_t first, int64_t last, float* out, int64_t ldo, bool accumulate);
    // Root mean square norm of one row.
    void (*norm)(const float* x, const float* weight, float eps, int64_t width, float* out);
    // out = silu(gate) * up.
    void (*silu_mul)(const float* gate, const float* up, int64_t count, float* out);
    // Attention over float32 and over bfloat16 keys and values.
    void (*attend_float32)(const AttentionTask& task);
    void (*attend_bfloat16)(const AttentionTask& task);
    // One sampled position's records.
    void (*draw)(const DrawRow& row, const DrawShape& shape);
};

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_vnni;
extern const Kernels kernels_avx512_bf16;
#endif

// The best table this processor can run, or the one of this name; null where it cannot run it.
const Kernels* select_kernels(const char* name);

}  // namespace tandem
