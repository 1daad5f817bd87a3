#include "screen.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "activations.h"

namespace tandem {

namespace {

constexpr int64_t piece = 4;  // panels that a thread takes at once
// Panels here and there are read more slowly than all in a row.
constexpr int64_t slower = 2;

int64_t count_panels(const Matrix& head) {
    return (head.rows + panel_rows - 1) / panel_rows;
}

// The largest of a panel's values; those that are no numbers are passed over.
float largest(const float* values, int64_t count) {
    float best[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};  // side by side, for a vector's lanes
    for (int64_t at = 0; at + 4 <= count; at += 4) {
        for (int lane = 0; lane < 4; lane++) {
            best[lane] = std::max(best[lane], values[at + lane]);
        }
    }
    for (int64_t at = count / 4 * 4; at < count; at++) {
        best[0] = std::max(best[0], values[at]);
    }
    return std::max(std::max(best[0], best[1]), std::max(best[2], best[3]));
}

// Append the `count` panels with the largest values, rising.
void add_best_panels(const float* values, int64_t rows, int64_t count, std::vector<int64_t>& panels) {
    std::vector<float> best;
    best.reserve((rows + panel_rows - 1) / panel_rows);
    for (int64_t row = 0; row < rows; row += panel_rows) {
        best.push_back(largest(values + row, std::min(panel_rows, rows - row)));
    }
    std::vector<float> ordered = best;
    std::nth_element(ordered.begin(), ordered.begin() + (count - 1), ordered.end(), std::greater<float>());
    const float least = ordered[count - 1];
    int64_t ties = count - std::count_if(best.begin(), best.end(), [least](float value) { return value > least; });
    for (size_t panel = 0; panel < best.size(); panel++) {
        if (best[panel] > least || (best[panel] == least && ties-- > 0)) {
            panels.push_back(panel);
        }
    }
}

class SecondLook : public Job {
  public:
    SecondLook(const Kernels& kernels, const Team& team, const Screen& screen, const Matrix& head, const float* x,
               int64_t num_rows, float* out, bool rounds)
        : Job(1, team.size()), kernels_(kernels), head_(head), each_(screen.num_panels), out_(out), rounds_(rounds),
          activations_(num_rows) {
        for (int64_t row = 0; row < num_rows; row++) {
            activations_[row].resize(head, 1);
            std::copy_n(x + row * head.columns, head.columns, activations_[row].x());
            activations_[row].prepare(kernels, head, 0, 1, rounds);
            float* logits = out + row * head.rows;
            add_best_panels(logits, head.rows, each_, panels_);
            std::fill_n(logits, head.rows, -INFINITY);
        }
    }

    void work(int thread) override {
        run_phase(0, thread, int64_t(panels_.size()), piece, [this](int64_t first, int64_t last) {
            for (int64_t at = first; at < last; at++) {
                const int64_t row = at / each_, start = panels_[at] * panel_rows;
                activations_[row].multiply(kernels_, head_, start, std::min(start + panel_rows, head_.rows),
                                           out_ + row * head_.rows, head_.rows, false, rounds_);
            }
        });
    }

  private:
    const Kernels& kernels_;
    const Matrix head_;
    const int64_t each_;
    float* out_;
    const bool rounds_;
    std::vector<Activations> activations_;
    std::vector<int64_t> panels_;  // those of a row beside each other
};

}  // namespace

bool is_worth_screening(const Screen& screen, const Matrix& head, int64_t num_rows) {
    return screen.num_panels && num_rows * screen.num_panels * slower < count_panels(head);
}

void run_screened(const Kernels& kernels, Team& team, const Screen& screen, const Matrix& head, const float* x,
                  int64_t num_rows, float* out, bool rounds) {
    std::vector<float> small(num_rows * screen.down.rows);
    run_linear(kernels, team, screen.down, x, num_rows, small.data(), rounds);
    run_linear(kernels, team, screen.up, small.data(), num_rows, out, rounds);
    team.run(std::make_shared<SecondLook>(kernels, team, screen, head, x, num_rows, out, rounds));
}

}  // namespace tandem
