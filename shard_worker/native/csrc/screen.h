// A draft's head in two looks (SVD-softmax: Shim et al. 2017): rough logits of all tokens by a product of small rank,
// then the true ones of those panels of 16 rows that hold the best of the rough ones. For few rows most of the head is
// never read.
#pragma once

#include "decoder.h"

namespace tandem {

struct Screen {
    Matrix down, up;     // rough logits = up (down x): [rank, width], [rows of the head, rank]
    int64_t num_panels;  // looked at again for each row of x; 0: there is no screen
};

// Whether there is a screen with which so many rows read less of a head than the whole.
bool is_worth_screening(const Screen& screen, const Matrix& head, int64_t num_rows);

// out[m, n] = x[m] . head[n] in a row's panels, bit for bit what `run_linear` gives, and minus infinity in all others.
void run_screened(const Kernels& kernels, Team& team, const Screen& screen, const Matrix& head, const float* x,
                  int64_t num_rows, float* out, bool rounds);

}  // namespace tandem
