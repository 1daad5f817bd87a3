// One rank's decoder: what a step needs besides its rows, and the driver that runs a step on a team.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "team.h"

namespace tandem {

// The structs of this file are filled in by Python (bindings.py), which also keeps every pointer alive.
struct Layer {
    const float* attention_norm;
    const float* feed_forward_norm;
    const float* qkv_bias;    // [qkv.rows]; null in models without
    const float* query_norm;  // [head_dim], as is key_norm; null in models without
    const float* key_norm;
    int64_t window;  // positions a token sees, itself included; 0: all
    Matrix qkv, output, gate_up, down;
    void* cache;  // [slots, 2 * kv_heads, head_dim], keys before values
};

struct Model {
    int64_t num_layers, width, query_heads, kv_heads, head_dim, block_size;
    int64_t first_id;  // of this rank's slice of the vocabulary
    Matrix embedding;
    const Layer* layers;
    const float* norm;
    const int32_t* first_query;  // [kv_heads + 1]: the local query heads of each KV head
    const float* cos;            // [context_length, head_dim / 2]
    const float* sin;
    float eps;
    int32_t cache_is_bfloat16;
    int32_t rounds;  // 1: embeddings are bfloat16, and activations may be before a product, where that is faster
};

// Adds up all ranks' parts, `count` numbers; `total` may be `part`. Other than 0: the group is lost, the step ends.
using AllReduce = int (*)(void* context, const float* part, float* total, int64_t count);

struct Step {
    int64_t num_tokens, num_reported;
    float* hidden;  // [num_tokens, width]: scratch
    const int64_t* ids;
    const int64_t* positions;
    const int64_t* slots;
    const int64_t* table_starts;  // where each token's block table begins in `blocks`
    const int32_t* blocks;
    const int64_t* reported;
    float* reported_hidden;  // [num_reported, width]: the final norm's output
    float* part;             // [num_tokens, width]; null with one rank
    AllReduce all_reduce;    // called on the thread that runs the step
    void* context;
};

// From so many rows on a product is more than reading its weights.
constexpr int64_t many_rows = 8;

// Rows of a matrix that a thread takes at once, or in the end, where pieces shrink: few enough to share work evenly.
int64_t piece_of(const Matrix& matrix, int64_t rows, int num_threads);

// Run a step. Returns 0, or what the all-reduce that failed returned.
int run_step(const Kernels& kernels, Team& team, const Model& model, const Step& step);

// out[m, n] = x[m] . w[n], [num_rows, matrix.rows]; `rounds` as in Model.
void run_linear(const Kernels& kernels, Team& team, const Matrix& matrix, const float* x, int64_t num_rows, float* out,
                bool rounds);

// All sampled positions of a step: arrays with an entry for each, lists one after the other.
struct Draws {
    int64_t num_rows;
    DrawShape shape;
    const float* logits;        // [num_rows, size]
    const float* raw;           // the same, or `logits` itself
    const float* temperatures;  // 0: greedy
    const uint64_t* seeds;
    const int64_t* positions;
    int32_t* noised_ids;  // [num_rows, num_noised], as are the next three
    float* noised_scores;
    float* noised_processed;
    float* noised_raw;
    int32_t* top_ids;  // [num_rows, num_top]
    float* top_processed;
    int32_t* raw_ids;  // [num_rows, num_raw]
    float* raw_logits;
    float* processed_lse;
    float* raw_lse;
    int64_t stride;  // from a position's records to the next one's: 1, or more where others lie between

    DrawRow row(int64_t m) const {
        const int64_t n = m * stride, at = n * shape.num_noised, top = n * shape.num_top, best = n * shape.num_raw;
        const bool noised = temperatures[m] > 0.0f;
        return {logits + m * shape.size, raw + m * shape.size, noised ? temperatures[m] : 1.0f, noised,
                seeds[m], positions[m], noised_ids + at, noised_scores + at, noised_processed + at, noised_raw + at,
                top_ids + top, top_processed + top, raw_ids + best, raw_logits + best, processed_lse + n, raw_lse + n};
    }
};

// Every list is at most as long as the slice, and num_noised >= 1.
void run_draws(const Kernels& kernels, Team& team, const Draws& draws);

}  // namespace tandem
