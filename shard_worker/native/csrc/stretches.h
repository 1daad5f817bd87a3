// A step's contexts, cut into stretches that threads attend to side by side, and what each of them found
// (flash-decoding: Dao et al. 2023).
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "decoder.h"
#include "merge.h"

namespace tandem {

class Stretches {
  public:
    Stretches(const Model& model, const Step& step) : model_(model), step_(step) {
        for (int64_t token = 0; token < step.num_tokens; token++) {
            first_.push_back(count());
            const int64_t context = step.positions[token] + 1;
            for (int64_t start = 0; start < context; start += attention_stretch) {
                stretches_.push_back({token, start, std::min(start + attention_stretch, context)});
            }
        }
        first_.push_back(count());
        partials_.resize(count() * size());
        put_in_order();
    }

    int64_t count() const { return int64_t(stretches_.size()); }

    // The stretch whose turn is the index-th. A sequence's tokens attend to the same keys in turn.
    int64_t in_turn(int64_t index) const { return order_[index]; }

    // Floats of a stretch's partial results: [query_heads, head_dim + 2].
    int64_t size() const { return model_.query_heads * width(); }

    // Where the queries of KV head `kv_head` begin in those, and of the head after the last: the end.
    int64_t begin(int64_t kv_head) const { return model_.first_query[kv_head] * width(); }

    float* partial(int64_t stretch) { return partials_.data() + stretch * size(); }

    // Attend with the queries of one KV head, in qkv [num_tokens, ldq], to one stretch. `out` has a stretch's size.
    void attend(const Kernels& kernels, const Layer& layer, const float* qkv, int64_t ldq, int64_t stretch,
                int64_t kv_head, float* scores, float* out) const {
        const Stretch& part = stretches_[stretch];
        const int64_t query = model_.first_query[kv_head];
        AttentionTask task;
        task.query = qkv + part.token * ldq + query * model_.head_dim;
        task.cache = layer.cache;
        task.blocks = step_.blocks + step_.table_starts[part.token];
        task.block_size = model_.block_size;
        task.kv_heads = model_.kv_heads;
        task.kv_head = kv_head;
        task.head_dim = model_.head_dim;
        task.queries = model_.first_query[kv_head + 1] - query;
        const int64_t first = layer.window ? step_.positions[part.token] + 1 - layer.window : 0;
        task.start = std::max(part.start, first);
        task.stop = part.stop;
        task.scores = scores;
        task.out = out + begin(kv_head);
        if (task.start >= task.stop) {  // outside the window: nothing, with weight 0
            std::fill_n(task.out, task.queries * width(), 0.0f);
            for (int64_t g = 0; g < task.queries; g++) {
                task.out[g * width() + model_.head_dim] = -INFINITY;
            }
            return;
        }
        (model_.cache_is_bfloat16 ? kernels.attend_bfloat16 : kernels.attend_float32)(task);
    }

    // Put a token's heads together from their stretches.
    void merge(int64_t token, float* heads) const {
        const int64_t begin = first_[token], end = first_[token + 1];
        for (int64_t query = 0; query < model_.query_heads; query++) {
            merge_stretches(partials_.data() + begin * size() + query * width(), end - begin, size(), model_.head_dim,
                            heads + query * model_.head_dim);
        }
    }

  private:
    struct Stretch {
        int64_t token, start, stop;
    };

    int64_t width() const { return model_.head_dim + 2; }

    // Of so many tokens the queries and what they come to stay in the cache beside a stretch's keys.
    static constexpr int64_t tokens_in_turn = 16;

    void put_in_order() {
        for (int64_t token = 0, end = 0; token < step_.num_tokens; token = end) {
            const int64_t table = step_.table_starts[token];
            int64_t longest = 0;
            const int64_t most = std::min(step_.num_tokens, token + tokens_in_turn);
            for (end = token; end < most && step_.table_starts[end] == table; end++) {
                longest = std::max(longest, first_[end + 1] - first_[end]);
            }
            for (int64_t at = 0; at < longest; at++) {
                for (int64_t other = token; other < end; other++) {
                    if (first_[other] + at < first_[other + 1]) {
                        order_.push_back(first_[other] + at);
                    }
                }
            }
        }
    }

    const Model model_;
    const Step step_;
    std::vector<Stretch> stretches_;
    std::vector<int64_t> first_;  // of each token, and the end
    std::vector<int64_t> order_;
    std::vector<float> partials_;
};

}  // namespace tandem
