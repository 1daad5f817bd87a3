// Rows of logits summarised by the team: each row by one thread.
#include "decoder.h"

namespace tandem {

namespace {

class SummaryJob : public Job {
  public:
    SummaryJob(const Kernels& kernels, const Team& team, const float* x, int64_t num_rows, int64_t size, float* best,
               int64_t* at, float* lse)
        : Job(1, team.size()), kernels_(kernels), x_(x), num_rows_(num_rows), size_(size), best_(best), at_(at),
          lse_(lse) {}

    void work(int thread) override {
        run_phase(0, thread, num_rows_, 1, [this](int64_t first, int64_t last) {
            for (int64_t m = first; m < last; m++) {
                kernels_.summarize(x_ + m * size_, size_, best_ + m, at_ + m, lse_ + m);
            }
        });
    }

  private:
    const Kernels& kernels_;
    const float* x_;
    const int64_t num_rows_, size_;
    float* best_;
    int64_t* at_;
    float* lse_;
};

}  // namespace

void run_summarize(const Kernels& kernels, Team& team, const float* x, int64_t num_rows, int64_t size, float* best,
                   int64_t* at, float* lse) {
    if (num_rows == 1) {  // quicker than waking anybody
        return kernels.summarize(x, size, best, at, lse);
    }
    team.run(std::make_shared<SummaryJob>(kernels, team, x, num_rows, size, best, at, lse));
}

}  // namespace tandem
