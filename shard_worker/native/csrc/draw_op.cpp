// Sampling records of a step's positions: each by one thread of the team.
#include "decoder.h"

namespace tandem {

namespace {

class DrawJob : public Job {
  public:
    DrawJob(const Kernels& kernels, const Team& team, const Draws& draws)
        : Job(1, team.size()), kernels_(kernels), draws_(draws) {}

    void work(int thread) override {
        run_phase(0, thread, draws_.num_rows, 1,
                  [this](int64_t m, int64_t) { kernels_.draw(draws_.row(m), draws_.shape); });
    }

  private:
    const Kernels& kernels_;
    const Draws draws_;
};

}  // namespace

void run_draws(const Kernels& kernels, Team& team, const Draws& draws) {
    if (draws.num_rows == 1) {  // quicker than waking anybody
        return kernels.draw(draws.row(0), draws.shape);
    }
    team.run(std::make_shared<DrawJob>(kernels, team, draws));
}

}  // namespace tandem
