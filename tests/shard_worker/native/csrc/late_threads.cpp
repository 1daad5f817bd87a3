// Jobs whose threads lose their core at a point of our choice: a thread that computes a piece waits there until the
// others have gone on without it. Where they cannot, the function does not return.
#include <vector>

#include "team.h"

namespace {

constexpr int64_t phases = 3, total = 37, piece = 4;

// Sums over three phases: cell += what is computed from its number and the phase. A cell is added to once a phase, or
// the sum is wrong.
class Sums : public tandem::Job {
  public:
    // In phase `late_phase` the first `late` threads that compute the piece at `late_first` come back when phase
    // `until` is over.
    Sums(int threads, int late, int64_t late_phase, int64_t late_first, int64_t until)
        : Job(phases, threads), late_phase_(late_phase), late_first_(late_first), until_(until), late_(late),
          scratch_(threads) {}

    void work(int thread) override {
        for (int64_t phase = 0; phase < phases; phase++) {
            std::vector<int64_t>& scratch = scratch_[thread];
            const auto compute = [&](int64_t first, int64_t last) {
                computed_.fetch_add(1);
                if (phase == late_phase_ && first == late_first_ && late_.fetch_sub(1) > 0) {
                    until_over(until_);
                }
                scratch.assign(last - first, 0);
                for (int64_t at = first; at < last; at++) {
                    scratch[at - first] = (phase + 1) * (at + 1);
                }
            };
            run_backed_phase(phase, thread, total, piece, compute, [&](int64_t first, int64_t last) {
                for (int64_t at = first; at < last; at++) {
                    sums_[at] += scratch[at - first];
                }
            });
            over_.store(phase + 1);
            over_.notify_all();
        }
    }

    bool is_right() const {
        for (int64_t at = 0; at < total; at++) {
            if (sums_[at] != phases * (phases + 1) / 2 * (at + 1)) {
                return false;
            }
        }
        return late_.load() < 0 && computed_.load() > phases * ((total + piece - 1) / piece);
    }

  private:
    void until_over(int64_t phase) {
        for (int64_t seen = over_.load(); seen <= phase; seen = over_.load()) {
            over_.wait(seen);
        }
    }

    const int64_t late_phase_, late_first_, until_;
    std::atomic<int> late_;
    std::vector<std::vector<int64_t>> scratch_;
    int64_t sums_[total] = {};
    std::atomic<int64_t> over_{0}, computed_{0};
};

}  // namespace

// How many of the jobs went wrong.
#pragma GCC visibility push(default)
extern "C" int tandem_late_threads() {
    int wrong = 0;
    for (int threads = 2; threads <= 3; threads++) {
        tandem::Team team(threads);
        for (int late = 1; late < threads; late++) {
            for (int64_t phase = 0; phase < phases; phase++) {
                for (int64_t until = phase; until < phases; until++) {
                    for (int64_t first = 0; first < total; first += piece) {
                        const auto job = std::make_shared<Sums>(threads, late, phase, first, until);
                        team.run(job);
                        wrong += !job->is_right();
                    }
                }
            }
        }
    }
    return wrong;
}
#pragma GCC visibility pop
