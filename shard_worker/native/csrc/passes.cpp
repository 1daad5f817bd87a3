// Passes of a step: model, head, draw, and what the winners make of the tokens.
#include "passes.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace tandem {

namespace {

// A step's tokens: those of the rows, then one for each row, which follows it.
class Tokens {
  public:
    Tokens(const Model& model, const Passes& passes) : model_(model), passes_(passes) {
        const int64_t rows = passes.num_rows;
        const int64_t *base = passes.rows, *length = base + rows, *sampled = length + rows, *scored = sampled + rows;
        const int64_t* num_blocks = scored + rows;
        int64_t end = 0, table = 0;
        for (int64_t row = 0; row < rows; table += num_blocks[row], row++) {
            for (int64_t at = 0; at < length[row]; at++, end++) {
                ids_.push_back(passes.ids[end]);
                put(base[row] + at, table);
            }
            for (int64_t count = sampled[row]; count > 0; count--) {
                reported_.push_back(end - count);
                drawn_.push_back(positions_[end - count] + 1);
                temperatures_.push_back(passes.temperatures[row]);
                seeds_.push_back(passes.seeds[row]);
            }
        }
        end = 0;
        for (int64_t row = 0; row < rows; row++) {
            end += length[row];
            for (int64_t count = scored[row]; count > 0; count--) {
                reported_.push_back(end - count);
            }
        }
        hidden_.resize(end * model.width);
        part_.resize(passes.world_size > 1 ? end * model.width : 0);
    }

    float* logits(int64_t pass) const { return passes_.logits + pass * int64_t(drawn_.size()) * passes_.shape.size; }

    Step step() {
        return {int64_t(ids_.size()), int64_t(reported_.size()), hidden_.data(), ids_.data(), positions_.data(),
                slots_.data(), table_starts_.data(), passes_.blocks, reported_.data(), passes_.hidden,
                passes_.world_size > 1 ? part_.data() : nullptr, passes_.all_reduce, passes_.context};
    }

    Draws draws(int64_t pass) const {
        const int64_t num_sampled = drawn_.size();
        int32_t* next = passes_.records;
        const auto list = [&](int64_t length) {
            int32_t* start = next + pass * length;
            next += num_sampled * passes_.num_passes * length;
            return start;
        };
        const auto floats = [&](int64_t length) { return reinterpret_cast<float*>(list(length)); };
        const DrawShape& shape = passes_.shape;
        Draws draws{num_sampled, shape};
        draws.logits = draws.raw = logits(pass);
        draws.temperatures = temperatures_.data();
        draws.seeds = seeds_.data();
        draws.positions = drawn_.data();
        draws.noised_ids = list(shape.num_noised);
        draws.noised_scores = floats(shape.num_noised);
        draws.noised_processed = floats(shape.num_noised);
        draws.noised_raw = floats(shape.num_noised);
        draws.top_ids = list(shape.num_top);
        draws.top_processed = floats(shape.num_top);
        draws.raw_ids = list(shape.num_raw);
        draws.raw_logits = floats(shape.num_raw);
        draws.processed_lse = floats(1);
        draws.raw_lse = floats(1);
        draws.stride = passes_.num_passes;
        return draws;
    }

    // Put these ids behind the rows, which were sampled once each.
    void follow(const std::vector<int32_t>& ids) {
        const std::vector<int64_t> last = reported_, positions = positions_, tables = table_starts_;
        positions_.clear(), slots_.clear(), table_starts_.clear();
        for (size_t row = 0; row < ids.size(); row++) {
            put(positions[last[row]] + 1, tables[last[row]]);
            drawn_[row]++;
            reported_[row] = row;
        }
        ids_.assign(ids.begin(), ids.end());
    }

  private:
    void put(int64_t position, int64_t table_start) {
        const int64_t block = passes_.blocks[table_start + position / model_.block_size];
        positions_.push_back(position);
        slots_.push_back(block * model_.block_size + position % model_.block_size);
        table_starts_.push_back(table_start);
    }

    const Model& model_;
    const Passes& passes_;
    std::vector<int64_t> ids_, positions_, slots_, table_starts_, reported_, drawn_;
    std::vector<float> temperatures_, hidden_, part_;
    std::vector<uint64_t> seeds_;
};

// The ids with the best score over all slices, of these sampled positions; of equal ones the lowest, since slices lie
// in the order of the ranks. Returns 0, or what the all-reduce that failed returned.
int merge_winners(const Passes& passes, const Draws& draws, const std::vector<int64_t>& sampled, int32_t* winners) {
    const int64_t count = sampled.size(), entry = draws.stride * draws.shape.num_noised;
    if (passes.world_size == 1) {
        std::transform(sampled.begin(), sampled.end(), winners, [&](int64_t m) { return draws.noised_ids[m * entry]; });
        return 0;
    }
    std::vector<float> best(passes.world_size * count * 2);  // of each slice: score, and id, exact up to 2^24
    for (int64_t at = 0; at < count; at++) {
        float* own = best.data() + (passes.rank * count + at) * 2;
        own[0] = draws.noised_scores[sampled[at] * entry];
        own[1] = float(draws.noised_ids[sampled[at] * entry]);
    }
    if (const int failure = passes.all_reduce(passes.context, best.data(), best.data(), best.size())) {
        return failure;
    }
    for (int64_t at = 0; at < count; at++) {
        const float* won = best.data() + at * 2;
        for (int64_t rank = 1; rank < passes.world_size; rank++) {
            const float* other = best.data() + (rank * count + at) * 2;
            if (other[0] > won[0] || (std::isnan(other[0]) && !std::isnan(won[0]))) {
                won = other;
            }
        }
        winners[at] = int32_t(won[1]);
    }
    return 0;
}

// The logits of the first `num_rows` hidden states.
void run_head(const Kernels& kernels, Team& team, const Model& model, const Passes& passes, int64_t num_rows,
              float* logits) {
    const Matrix& head = passes.head;
    if (is_worth_screening(passes.screen, head, num_rows)) {
        return run_screened(kernels, team, passes.screen, head, passes.hidden, num_rows, logits, model.rounds);
    }
    run_linear(kernels, team, head, passes.hidden, num_rows, logits, model.rounds);
}

// Where each row's first sampled position lies among all.
std::vector<int64_t> first_sampled(const Passes& passes) {
    std::vector<int64_t> first(passes.num_rows);
    const int64_t* sampled = passes.rows + 2 * passes.num_rows;
    std::exclusive_scan(sampled, sampled + passes.num_rows, first.begin(), int64_t(0));
    return first;
}

}  // namespace

int run_passes(const Kernels& kernels, Team& team, const Model& model, const Passes& passes) {
    Tokens tokens(model, passes);
    const std::vector<int64_t> first = first_sampled(passes);
    for (int64_t pass = 0;; pass++) {
        if (const int failure = run_step(kernels, team, model, tokens.step())) {
            return failure;
        }
        const Draws draws = tokens.draws(pass);
        if (draws.num_rows) {
            run_head(kernels, team, model, passes, draws.num_rows, tokens.logits(pass));
            run_draws(kernels, team, draws);
        }
        if (pass + 1 == passes.num_passes) {
            std::vector<int64_t> wanted;
            for (int64_t at = 0; at < passes.num_ahead; at++) {
                wanted.push_back(first[passes.ahead[at]]);
            }
            return wanted.empty() ? 0 : merge_winners(passes, draws, wanted, passes.winners);
        }
        std::vector<int32_t> winners(passes.num_rows);
        if (const int failure = merge_winners(passes, draws, first, winners.data())) {
            return failure;
        }
        tokens.follow(winners);
    }
}

}  // namespace tandem
