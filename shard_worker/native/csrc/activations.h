// A product's left side: the rows of x in the form in which a matrix's kernel takes them.
#pragma once

#include <vector>

#include "kernels.h"
#include "packed.h"

namespace tandem {

class Activations {
  public:
    // Make room for `num_rows` rows of x. Not to be called while others use them.
    void resize(const Matrix& matrix, int64_t num_rows) {
        x_.resize(num_rows * matrix.columns);
        num_rows_ = num_rows;
        if (matrix.takes_integers()) {
            const int64_t columns = padded_columns(matrix);
            q_.resize(num_rows * columns);
            blocks_.resize(num_rows * columns / block_columns);
            quantized_ = {num_rows, columns, q_.data(), blocks_.data()};
        } else {
            rounded_.resize(num_rows * matrix.columns);
        }
    }

    float* x() { return x_.data(); }  // [num_rows, columns], to be filled before `prepare`

    // Bring rows [first, last) of x into form. With `rounded` they become bfloat16, where the kernels have products of
    // that; never for float32 weights, which would be rounded with them.
    void prepare(const Kernels& kernels, const Matrix& matrix, int64_t first, int64_t last, bool rounded) {
        if (matrix.takes_integers()) {
            kernels.quantize(matrix, x_.data(), first, last, quantized_);
            return;
        }
        float* rows = x_.data() + first * matrix.columns;
        if (matrix.is_int4()) {
            kernels.arrange(rows, matrix.columns, last - first, matrix.columns);
        }
        if (takes_rounded(kernels, matrix, rounded)) {
            kernels.round(rows, (last - first) * matrix.columns, rounded_.data() + first * matrix.columns);
        }
    }

    // out[m, n] (+)= x[m] . w[n] for rows n in [first, last) of the matrix.
    void multiply(const Kernels& kernels, const Matrix& matrix, int64_t first, int64_t last, float* out, int64_t ldo,
                  bool accumulate, bool rounded) const {
        if (matrix.takes_integers()) {
            kernels.linear_packed(matrix, quantized_, first, last, out, ldo, accumulate);
        } else if (takes_rounded(kernels, matrix, rounded)) {
            const auto linear = matrix.is_compact() ? kernels.linear_compact_rounded : kernels.linear_rounded;
            linear(matrix, rounded_.data(), matrix.columns, num_rows_, first, last, out, ldo, accumulate);
        } else {
            const auto linear = matrix.is_compact() ? kernels.linear_compact : kernels.linear;
            linear(matrix, x_.data(), matrix.columns, num_rows_, first, last, out, ldo, accumulate);
        }
    }

  private:
    static bool takes_rounded(const Kernels& kernels, const Matrix& matrix, bool rounded) {
        return rounded && kernels.linear_rounded && matrix.format != int32_t(Format::float32);
    }

    std::vector<float> x_;
    std::vector<uint16_t> rounded_;
    std::vector<int8_t> q_;
    std::vector<XBlock> blocks_;
    QuantizedRows quantized_{};
    int64_t num_rows_ = 0;
};

}  // namespace tandem
