// A product's left side: the rows of x in the form in which a matrix's kernel takes them.
#pragma once

#include <vector>

#include "kernels.h"

namespace tandem {

class Activations {
  public:
    std::vector<float> x;  // [num_rows, columns], to be filled before `prepare`

    // Bring x into form. With `rounded` it becomes bfloat16, where the kernels have products of that; never for float32
    // weights, which would be rounded with it.
    void prepare(const Kernels& kernels, const Matrix& matrix, int64_t num_rows, bool rounded) {
        num_rows_ = num_rows;
        if (matrix.is_int4()) {
            kernels.arrange(x.data(), matrix.columns, num_rows, matrix.columns);
        }
        is_rounded_ = rounded && kernels.linear_rounded && matrix.format != int32_t(Format::float32);
        if (is_rounded_) {
            rounded_.resize(num_rows * matrix.columns);
            kernels.round(x.data(), num_rows * matrix.columns, rounded_.data());
        }
    }

    // out[m, n] (+)= x[m] . w[n] for rows n in [first, last) of the matrix.
    void multiply(const Kernels& kernels, const Matrix& matrix, int64_t first, int64_t last, float* out, int64_t ldo,
                  bool accumulate) const {
        if (is_rounded_) {
            kernels.linear_rounded(matrix, rounded_.data(), matrix.columns, num_rows_, first, last, out, ldo,
                                   accumulate);
        } else {
            kernels.linear(matrix, x.data(), matrix.columns, num_rows_, first, last, out, ldo, accumulate);
        }
    }

  private:
    std::vector<uint16_t> rounded_;
    int64_t num_rows_ = 0;
    bool is_rounded_ = false;
};

}  // namespace tandem
