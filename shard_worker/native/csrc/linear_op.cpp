// A matrix product on its own: the head's logits, and what the tests compare.
#include <vector>

#include "decoder.h"

namespace tandem {

void run_linear(const Kernels& kernels, Team& team, const Matrix& matrix, const float* x, int64_t num_rows,
                float* out) {
    const int64_t columns = matrix.columns;
    std::vector<float> arranged;
    if (matrix.is_int4()) {
        arranged.assign(x, x + num_rows * columns);
        kernels.arrange(arranged.data(), columns, num_rows, columns);
        x = arranged.data();
    }
    team.run([&](int) {
        for (int64_t first, last; team.take(matrix.rows, piece_of(matrix.rows, team), first, last);) {
            kernels.linear(matrix, x, columns, num_rows, first, last, out, matrix.rows, false);
        }
    });
}

}  // namespace tandem
