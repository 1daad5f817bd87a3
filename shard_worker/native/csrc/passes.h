// Several passes of a step in one call: each decodes every row once and feeds its own winner to the next.
#pragma once

#include "screen.h"

namespace tandem {

// Filled in by Python (structures.py), which also keeps every pointer alive. Lists of rows lie one after the other.
struct Passes {
    int64_t num_rows;
    int64_t num_passes;        // more than one only where each row is sampled once
    const int64_t* rows;       // [5, num_rows]: base lengths, lengths, sampled, scored, lengths of block tables
    const int32_t* ids;
    const int32_t* blocks;
    const float* temperatures;  // [num_rows], as are the seeds; 0: greedy
    const uint64_t* seeds;
    Matrix head;
    Screen screen;
    DrawShape shape;
    float* hidden;     // [sampled and scored, width]: of the first pass, the sampled ones first
    float* logits;     // [num_passes, sampled, size]
    int32_t* records;  // the lists of Draws in their order, with those of a row's passes side by side
    int64_t num_ahead;
    const int64_t* ahead;  // [num_ahead]: rows, sampled once, whose winner of the last pass is wanted
    int32_t* winners;      // [num_ahead]
    int64_t world_size, rank;
    AllReduce all_reduce;  // null with one rank
    void* context;
};

// Returns 0, or what the all-reduce that failed returned.
int run_passes(const Kernels& kernels, Team& team, const Model& model, const Passes& passes);

}  // namespace tandem
