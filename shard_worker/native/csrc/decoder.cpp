// A decoder step in six phases a layer, a barrier after each. Norms and merges are computed by every thread for
// itself: at few rows that is cheaper than another barrier.
#include "decoder.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "rope.h"

namespace tandem {

namespace {

struct Stretch {
    int64_t token, start, stop;
};

// The step's own memory, [rows, columns] each. `first_stretch[t]` is where token t's stretches begin.
struct Scratch {
    Scratch(const Model& model, const Step& step) {
        const Layer& any = model.layers[0];
        for (int64_t token = 0; token < step.num_tokens; token++) {
            first_stretch.push_back(stretches.size());
            const int64_t context = step.positions[token] + 1;
            for (int64_t start = 0; start < context; start += attention_stretch) {
                stretches.push_back({token, start, std::min(start + attention_stretch, context)});
            }
        }
        first_stretch.push_back(stretches.size());
        qkv.resize(step.num_tokens * any.qkv.rows);
        gated.resize(step.num_tokens * any.down.columns);
        partials.resize(stretches.size() * model.query_heads * (model.head_dim + 2));
    }
    std::vector<Stretch> stretches;
    std::vector<int64_t> first_stretch;
    std::vector<float> qkv, gated, partials;
};

class Worker {
  public:
    Worker(const Kernels& kernels, Team& team, const Model& model, const Step& step, Scratch& scratch,
           std::atomic<int>& failure, int thread)
        : kernels_(kernels), team_(team), model_(model), step_(step), scratch_(scratch), failure_(failure),
          thread_(thread), rows_(step.num_tokens), query_width_(model.query_heads * model.head_dim) {
        const int64_t feed_forward = model.layers[0].down.columns;
        x_.resize(rows_ * std::max({model.width, query_width_, feed_forward}));
        scores_.resize(attention_stretch * model.query_heads);
    }

    void run() {
        for (int64_t index = 0; index < model_.num_layers && !failure_; index++) {
            const Layer& layer = model_.layers[index];
            project(layer);
            rotate_and_store(layer);
            attend(layer);
            merge();
            add_to_hidden(layer.output, x_.data());
            feed_forward(layer);
            add_to_hidden(layer.down, scratch_.gated.data());
        }
        report();
    }

  private:
    void project(const Layer& layer) {
        norm_rows(layer.attention_norm, layer.qkv);
        for (int64_t first, last; team_.take(layer.qkv.rows, piece_of(layer.qkv.rows, team_), first, last);) {
            kernels_.linear(layer.qkv, x_.data(), model_.width, rows_, first, last, scratch_.qkv.data(),
                            layer.qkv.rows, false);
        }
        team_.barrier();
    }

    void rotate_and_store(const Layer& layer) {
        for (int64_t token, last; team_.take(rows_, 1, token, last);) {
            float* qkv = scratch_.qkv.data() + token * layer.qkv.rows;
            rotate_heads(model_, step_.positions[token], qkv);
            store_heads(model_, layer.cache, step_.slots[token], qkv + query_width_);
        }
        team_.barrier();
    }

    void attend(const Layer& layer) {
        const int64_t stretches = scratch_.stretches.size(), head_dim = model_.head_dim;
        for (int64_t taken, last; team_.take(stretches * model_.kv_heads, 1, taken, last);) {
            const int64_t index = taken / model_.kv_heads, kv_head = taken % model_.kv_heads;
            const Stretch& stretch = scratch_.stretches[index];
            const int64_t query = model_.first_query[kv_head];
            AttentionTask task;
            task.query = scratch_.qkv.data() + stretch.token * layer.qkv.rows + query * head_dim;
            task.cache = layer.cache;
            task.blocks = step_.blocks + step_.table_starts[stretch.token];
            task.block_size = model_.block_size;
            task.kv_heads = model_.kv_heads;
            task.kv_head = kv_head;
            task.head_dim = head_dim;
            task.queries = model_.first_query[kv_head + 1] - query;
            task.start = stretch.start;
            task.stop = stretch.stop;
            task.scores = scores_.data();
            task.out = partial(index, query);
            (model_.cache_is_bfloat16 ? kernels_.attend_bfloat16 : kernels_.attend_float32)(task);
        }
        team_.barrier();
    }

    // Put each token's heads together in x_: stretches weighted by exp(their maximum - the overall one).
    void merge() {
        const int64_t head_dim = model_.head_dim;
        for (int64_t token = 0; token < rows_; token++) {
            const int64_t begin = scratch_.first_stretch[token], end = scratch_.first_stretch[token + 1];
            for (int64_t query = 0; query < model_.query_heads; query++) {
                float maximum = partial(begin, query)[head_dim];
                for (int64_t index = begin + 1; index < end; index++) {
                    maximum = std::max(maximum, partial(index, query)[head_dim]);
                }
                float* out = x_.data() + token * query_width_ + query * head_dim;
                std::fill(out, out + head_dim, 0.0f);
                float total = 0.0f;
                for (int64_t index = begin; index < end; index++) {
                    const float* from = partial(index, query);
                    const float weight = std::exp(from[head_dim] - maximum);
                    total += weight * from[head_dim + 1];
                    for (int64_t d = 0; d < head_dim; d++) {
                        out[d] += weight * from[d];
                    }
                }
                for (int64_t d = 0; d < head_dim; d++) {
                    out[d] /= total;
                }
            }
        }
    }

    void feed_forward(const Layer& layer) {
        const Matrix& both = layer.gate_up;
        const int64_t columns = layer.down.columns, piece = piece_of(columns, team_);
        norm_rows(layer.feed_forward_norm, both);
        both_.resize(2 * rows_ * piece);
        for (int64_t first, last; team_.take(columns, piece, first, last);) {
            // Both halves' outputs land at [m, 0 .. piece) of their own buffer.
            float *gate = both_.data(), *up = gate + rows_ * piece;
            kernels_.linear(both, x_.data(), model_.width, rows_, first, last, gate - first, piece, false);
            kernels_.linear(both, x_.data(), model_.width, rows_, columns + first, columns + last,
                            up - columns - first, piece, false);
            for (int64_t m = 0; m < rows_; m++) {
                kernels_.silu_mul(gate + m * piece, up + m * piece, last - first,
                                  scratch_.gated.data() + m * columns + first);
            }
        }
        team_.barrier();
    }

    // hidden += x times the matrix, over all ranks.
    void add_to_hidden(const Matrix& matrix, const float* x) {
        const int64_t columns = matrix.columns;
        if (matrix.is_int4()) {
            if (x != x_.data()) {
                std::copy(x, x + rows_ * columns, x_.data());
            }
            kernels_.arrange(x_.data(), columns, rows_, columns);
            x = x_.data();
        }
        float* out = step_.part ? step_.part : step_.hidden;
        for (int64_t first, last; team_.take(matrix.rows, piece_of(matrix.rows, team_), first, last);) {
            kernels_.linear(matrix, x, columns, rows_, first, last, out, model_.width, !step_.part);
        }
        team_.barrier();
        if (step_.part) {
            if (thread_ == 0 && !failure_) {
                failure_ = step_.all_reduce(step_.context, step_.part, step_.part, rows_ * model_.width);
                for (int64_t at = 0; at < rows_ * model_.width; at++) {
                    step_.hidden[at] += step_.part[at];
                }
            }
            team_.barrier();
        }
    }

    void report() {
        for (int64_t index, last; team_.take(step_.num_reported, 1, index, last);) {
            kernels_.norm(step_.hidden + step_.reported[index] * model_.width, model_.norm, model_.eps, model_.width,
                          step_.reported_hidden + index * model_.width);
        }
    }

    void norm_rows(const float* weight, const Matrix& next) {
        for (int64_t m = 0; m < rows_; m++) {
            kernels_.norm(step_.hidden + m * model_.width, weight, model_.eps, model_.width,
                          x_.data() + m * model_.width);
        }
        if (next.is_int4()) {
            kernels_.arrange(x_.data(), model_.width, rows_, model_.width);
        }
    }

    float* partial(int64_t stretch, int64_t query) {
        return scratch_.partials.data() + (stretch * model_.query_heads + query) * (model_.head_dim + 2);
    }

    const Kernels& kernels_;
    Team& team_;
    const Model& model_;
    const Step& step_;
    Scratch& scratch_;
    std::atomic<int>& failure_;
    const int thread_;
    const int64_t rows_, query_width_;
    std::vector<float> x_, both_, scores_;
};

}  // namespace

int64_t piece_of(int64_t rows, const Team& team) {
    const int64_t share = rows / (16 * team.size());
    return std::clamp<int64_t>((share + 11) / 12 * 12, 12, 96);  // 12: kernels take two, three or four rows at once
}

int run_step(const Kernels& kernels, Team& team, const Model& model, const Step& step) {
    Scratch scratch(model, step);
    std::atomic<int> failure{0};
    team.run([&](int thread) { Worker(kernels, team, model, step, scratch, failure, thread).run(); });
    return failure;
}

}  // namespace tandem
