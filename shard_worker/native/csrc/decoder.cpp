// A decoder step in six phases a layer. At few rows, what is multiplied (norms, merged heads) is computed by every
// thread that takes part in the product, for itself: that is cheaper than another phase. At many rows it is not.
// At few rows no thread waits for one that lost its core in a product or in attention: these are the phases that last.
#include "decoder.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "activations.h"
#include "lookup.h"
#include "rope.h"
#include "stretches.h"

namespace tandem {

namespace {

constexpr int64_t phases_per_layer = 12;  // with the two all-reduces, and four that make what is multiplied
constexpr int64_t most_backed_rows = 64;  // of more, results are not copied once again

// One thread's own activations.
struct Local {
    explicit Local(int thread) : thread(thread) {}

    const int thread;
    Activations activations;
    std::vector<float> gate_up, scores, results;
    int64_t next_phase = 0;
};

class StepJob : public Job {
  public:
    StepJob(const Kernels& kernels, const Team& team, const Model& model, const Step& step)
        : Job(phases_per_layer * model.num_layers + 3, team.size()), kernels_(kernels), model_(model), step_(step),
          layers_(model.layers, model.layers + model.num_layers), threads_(team.size()), rows_(step.num_tokens),
          query_width_(model.query_heads * model.head_dim), gated_width_(layers_[0].down.columns),
          stretches_(model_, step) {
        qkv_.resize(rows_ * layers_[0].qkv.rows);
        gated_.resize(rows_ * gated_width_);
        if (rows_ >= many_rows) {
            const Layer& layer = layers_[0];
            const Matrix* matrices[] = {&layer.qkv, &layer.output, &layer.gate_up, &layer.down};
            for (int product = 0; product < num_products; product++) {
                shared_[product].resize(*matrices[product], rows_);
            }
        }
    }

    int failure() const { return failure_; }

    void work(int thread) override {
        Local local(thread);
        embed(local);
        for (const Layer& layer : layers_) {
            project(layer, local);
            rotate_and_store(layer, local);
            attend(layer, local);
            add_to_hidden(output, layer.output, local, [&](int64_t token, float* x) { stretches_.merge(token, x); });
            feed_forward(layer, local);
            add_to_hidden(down, layer.down, local, [&](int64_t token, float* x) {
                std::copy_n(gated_.data() + token * gated_width_, gated_width_, x);
            });
            if (failure_) {
                return;
            }
        }
        run_phase(local.next_phase, thread, step_.num_reported, 1, [&](int64_t index, int64_t) {
            norm(model_.norm, step_.reported[index], step_.reported_hidden + index * model_.width);
        });
    }

  private:
    enum Product { qkv, output, gate_up, down, num_products };

    // Where a product goes: [rows_, ldo]; added to what is there or not.
    struct Target {
        float* out;
        int64_t ldo;
        bool accumulate;
    };

    // A phase that multiplies what fill(token, x) makes. A thread that makes it for itself does so once it took a
    // piece, and not before: only then does nobody change what it is made of. body(activations, first, last, target)
    // gets columns of the target.
    template <class Fill, class Body>
    void run_product(Product product, const Matrix& matrix, const Target& target, int64_t columns, Local& local,
                     Fill fill, Body body) {
        const int64_t making = local.next_phase++, multiplying = local.next_phase++;
        const int64_t piece = piece_of(matrix, columns, threads_);
        const auto make = [&](Activations& activations, int64_t first, int64_t last) {
            for (int64_t token = first; token < last; token++) {
                fill(token, activations.x() + token * matrix.columns);
            }
            activations.prepare(kernels_, matrix, first, last, model_.rounds);
        };
        const bool is_shared = rows_ >= many_rows;
        Activations& activations = is_shared ? shared_[product] : local.activations;
        if (is_shared) {
            run_phase(making, local.thread, rows_, 4,
                      [&](int64_t first, int64_t last) { make(activations, first, last); });
        }
        if (rows_ > most_backed_rows) {
            run_phase(multiplying, local.thread, columns, piece,
                      [&](int64_t first, int64_t last) { body(activations, first, last, target); });
            return;
        }
        bool made = is_shared;
        const auto compute = [&](int64_t first, int64_t last) {
            if (!made) {
                activations.resize(matrix, rows_);
                make(activations, 0, rows_);
                made = true;
            }
            local.results.resize(rows_ * (last - first));
            body(activations, first, last, Target{local.results.data() - first, last - first, false});
        };
        run_backed_phase(multiplying, local.thread, columns, piece, compute, [&](int64_t first, int64_t last) {
            commit(local.results.data(), first, last, target);
        }, is_shared ? equal : shrinking);
    }

    void commit(const float* results, int64_t first, int64_t last, const Target& target) const {
        const int64_t count = last - first;
        for (int64_t row = 0; row < rows_; row++) {
            float* out = target.out + row * target.ldo + first;
            for (int64_t at = 0; at < count; at++) {
                out[at] = target.accumulate ? out[at] + results[row * count + at] : results[row * count + at];
            }
        }
    }

    // hidden = the tokens' embeddings, which lie with the rank whose slice has their ids.
    void embed(Local& local) {
        float* out = step_.part ? step_.part : step_.hidden;
        run_phase(local.next_phase++, local.thread, rows_, 4, [&](int64_t first, int64_t last) {
            for (int64_t token = first; token < last; token++) {
                const int64_t row = step_.ids[token] - model_.first_id;
                look_up(model_.embedding, row, model_.rounds, out + token * model_.width);
            }
        });
        if (step_.part) {
            run_alone(local.next_phase++, local.thread, [&] {
                std::fill_n(step_.hidden, rows_ * model_.width, 0.0f);
                all_reduce();
            });
        }
    }

    void multiply(const Activations& activations, const Matrix& matrix, int64_t first, int64_t last,
                  const Target& target) const {
        activations.multiply(kernels_, matrix, first, last, target.out, target.ldo, target.accumulate, model_.rounds);
    }

    void project(const Layer& layer, Local& local) {
        run_product(
            qkv, layer.qkv, {qkv_.data(), layer.qkv.rows, false}, layer.qkv.rows, local,
            [&](int64_t token, float* x) { norm(layer.attention_norm, token, x); },
            [&](const Activations& x, int64_t first, int64_t last, const Target& target) {
                multiply(x, layer.qkv, first, last, target);
            });
    }

    void rotate_and_store(const Layer& layer, Local& local) {
        run_phase(local.next_phase++, local.thread, rows_, 1, [&](int64_t token, int64_t) {
            float* qkv = qkv_.data() + token * layer.qkv.rows;
            finish_heads(layer, qkv);
            rotate_heads(model_, step_.positions[token], qkv);
            store_heads(model_, layer.cache, step_.slots[token], qkv + query_width_);
        });
    }

    // What is done to heads before they are rotated: biases, then query and key norms, where the model has them.
    void finish_heads(const Layer& layer, float* qkv) {
        for (int64_t at = 0; layer.qkv_bias && at < layer.qkv.rows; at++) {
            qkv[at] += layer.qkv_bias[at];
        }
        for (int64_t head = 0; layer.query_norm && head < model_.query_heads + model_.kv_heads; head++) {
            float* x = qkv + head * model_.head_dim;
            const float* weight = head < model_.query_heads ? layer.query_norm : layer.key_norm;
            kernels_.norm(x, weight, model_.eps, model_.head_dim, x);
        }
    }

    void attend(const Layer& layer, Local& local) {
        const int64_t heads = model_.kv_heads, count = stretches_.count();
        // A stretch's heads lie side by side in memory: where there are stretches for all threads, one takes them all.
        const int64_t piece = count >= 4 * threads_ ? heads : 1;
        local.scores.resize(attention_stretch * model_.query_heads);
        local.results.resize(stretches_.size());
        const auto compute = [&](int64_t first, int64_t last) {
            for (int64_t index = first; index < last; index++) {
                stretches_.attend(kernels_, layer, qkv_.data(), layer.qkv.rows, stretches_.in_turn(index / heads),
                                  index % heads, local.scores.data(), local.results.data());
            }
        };
        run_backed_phase(local.next_phase++, local.thread, count * heads, piece, compute,
                         [&](int64_t first, int64_t last) {
                             const int64_t begin = stretches_.begin(first % heads), head = first % heads + last - first;
                             std::copy(local.results.data() + begin, local.results.data() + stretches_.begin(head),
                                       stretches_.partial(stretches_.in_turn(first / heads)) + begin);
                         });
    }

    void feed_forward(const Layer& layer, Local& local) {
        const Matrix& both = layer.gate_up;
        run_product(
            gate_up, both, {gated_.data(), gated_width_, false}, gated_width_, local,
            [&](int64_t token, float* x) { norm(layer.feed_forward_norm, token, x); },
            [&](const Activations& x, int64_t first, int64_t last, const Target& target) {
                // Both halves' outputs land at [m, 0 .. count) of their own buffer.
                const int64_t count = last - first, after = gated_width_ + first;
                local.gate_up.resize(2 * rows_ * count);
                float *gate = local.gate_up.data(), *up = gate + rows_ * count;
                multiply(x, both, first, last, {gate - first, count, false});
                multiply(x, both, after, after + count, {up - after, count, false});
                for (int64_t m = 0; m < rows_; m++) {
                    kernels_.silu_mul(gate + m * count, up + m * count, count, target.out + m * target.ldo + first);
                }
            });
    }

    // hidden += what `fill` makes times the matrix, over all ranks.
    template <class Fill>
    void add_to_hidden(Product product, const Matrix& matrix, Local& local, Fill fill) {
        const Target target{step_.part ? step_.part : step_.hidden, model_.width, !step_.part};
        run_product(product, matrix, target, matrix.rows, local, fill,
                    [&](const Activations& x, int64_t first, int64_t last, const Target& to) {
                        multiply(x, matrix, first, last, to);
                    });
        if (step_.part) {
            run_alone(local.next_phase++, local.thread, [&] { all_reduce(); });
        }
    }

    void all_reduce() {
        if (failure_) {
            return;
        }
        failure_ = step_.all_reduce(step_.context, step_.part, step_.part, rows_ * model_.width);
        for (int64_t at = 0; at < rows_ * model_.width; at++) {
            step_.hidden[at] += step_.part[at];
        }
    }

    void norm(const float* weight, int64_t token, float* out) {
        kernels_.norm(step_.hidden + token * model_.width, weight, model_.eps, model_.width, out);
    }

    const Kernels& kernels_;
    const Model model_;
    const Step step_;
    const std::vector<Layer> layers_;
    const int threads_;
    const int64_t rows_, query_width_, gated_width_;
    Stretches stretches_;
    std::vector<float> qkv_, gated_;
    Activations shared_[num_products];
    std::atomic<int> failure_{0};
};

}  // namespace

int64_t piece_of(const Matrix& matrix, int64_t rows, int num_threads) {
    // Kernels take two panels at once, or two, three or four rows.
    const int64_t unit = matrix.is_compact() ? 2 * panel_rows : matrix.is_packed() ? panel_rows : 12;
    const int64_t share = rows / (16 * num_threads);
    return std::clamp<int64_t>((share + unit - 1) / unit * unit, unit, 96);
}

int run_step(const Kernels& kernels, Team& team, const Model& model, const Step& step) {
    auto job = std::make_shared<StepJob>(kernels, team, model, step);
    team.run(job);
    return job->failure();
}

}  // namespace tandem
