// A matrix product on its own: the head's logits, and what the tests compare.
#include <vector>

#include "decoder.h"

namespace tandem {

namespace {

class LinearJob : public Job {
  public:
    LinearJob(const Kernels& kernels, const Team& team, const Matrix& matrix, const float* x, int64_t num_rows,
              float* out)
        : Job(1), kernels_(kernels), matrix_(matrix), x_(x), num_rows_(num_rows), piece_(piece_of(matrix.rows, team.size())),
          out_(out) {
        if (matrix.is_int4()) {
            arranged_.assign(x, x + num_rows * matrix.columns);
            kernels.arrange(arranged_.data(), matrix.columns, num_rows, matrix.columns);
            x_ = arranged_.data();
        }
    }

    void work(int) override {
        run_phase(0, matrix_.rows, piece_, [&](int64_t first, int64_t last) {
            kernels_.linear(matrix_, x_, matrix_.columns, num_rows_, first, last, out_, matrix_.rows, false);
        });
    }

  private:
    const Kernels& kernels_;
    const Matrix matrix_;
    std::vector<float> arranged_;
    const float* x_;
    const int64_t num_rows_, piece_;
    float* out_;
};

}  // namespace

void run_linear(const Kernels& kernels, Team& team, const Matrix& matrix, const float* x, int64_t num_rows,
                float* out) {
    team.run(std::make_shared<LinearJob>(kernels, team, matrix, x, num_rows, out));
}

}  // namespace tandem
