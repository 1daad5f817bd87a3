// A matrix product on its own: the head's logits, and what the tests compare.
#include "activations.h"
#include "decoder.h"

namespace tandem {

namespace {

class LinearJob : public Job {
  public:
    LinearJob(const Kernels& kernels, const Team& team, const Matrix& matrix, const float* x, int64_t num_rows,
              float* out, bool rounds)
        : Job(1, team.size()), kernels_(kernels), matrix_(matrix), piece_(piece_of(matrix, matrix.rows, team.size())),
          pieces_(num_rows < many_rows ? shrinking : equal), out_(out), rounds_(rounds) {
        activations_.resize(matrix, num_rows);
        std::copy_n(x, num_rows * matrix.columns, activations_.x());
        activations_.prepare(kernels, matrix, 0, num_rows, rounds);
    }

    void work(int thread) override {
        const auto body = [&](int64_t first, int64_t last) {
            activations_.multiply(kernels_, matrix_, first, last, out_, matrix_.rows, false, rounds_);
        };
        run_phase(0, thread, matrix_.rows, piece_, body, pieces_);
    }

  private:
    const Kernels& kernels_;
    const Matrix matrix_;
    Activations activations_;
    const int64_t piece_;
    const Pieces pieces_;
    float* out_;
    const bool rounds_;
};

}  // namespace

void run_linear(const Kernels& kernels, Team& team, const Matrix& matrix, const float* x, int64_t num_rows,
                float* out, bool rounds) {
    team.run(std::make_shared<LinearJob>(kernels, team, matrix, x, num_rows, out, rounds));
}

}  // namespace tandem
