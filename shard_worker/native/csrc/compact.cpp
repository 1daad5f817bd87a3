// Making a bfloat16 matrix compact: panel by panel, on all threads.
#include "compact.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <vector>

#include "decoder.h"

namespace tandem {

namespace {

// What becomes of a weight by its high byte: its code, and the mask of its low byte, which is 0 for an exception.
struct Coding {
    uint8_t code, mask;
};

// The 16 most frequent high bytes of some rows, ties to the smaller, and the smallest of them as a placeholder: without
// its low byte no number is infinite or NaN.
CompactHeader choose(const uint16_t* weights, int64_t count) {
    uint32_t counts[256] = {};
    for (int64_t at = 0; at < count; at++) {
        counts[weights[at] >> 8]++;
    }
    uint8_t order[256];
    std::iota(order, order + 256, uint8_t(0));
    std::partial_sort(order, order + 16, order + 256, [&](uint8_t one, uint8_t other) {
        return counts[one] != counts[other] ? counts[one] > counts[other] : one < other;
    });
    CompactHeader header{};
    std::copy_n(order, 16, header.table);
    const auto magnitude = [](uint8_t high) { return high & 0x7f; };
    const uint8_t smallest = *std::min_element(order, order + 16, [&](uint8_t one, uint8_t other) {
        return magnitude(one) < magnitude(other);
    });
    header.placeholder = uint16_t(smallest << 8);
    return header;
}

// Write a row's part of a unit. Returns whether one of its weights is an exception.
bool pack_unit(const uint16_t* weights, int64_t lane, const Coding* codings, uint8_t* unit) {
    uint8_t masks = 0xff;
    for (int64_t column = 0; column < compact_columns / 2; column++) {
        const uint16_t near = weights[column], far = weights[column + compact_columns / 2];
        const Coding low = codings[near >> 8], high = codings[far >> 8];
        uint8_t* at = unit + compact_place(lane, column);
        at[0] = uint8_t(low.code | high.code << 4);
        at[compact_code_bytes] = uint8_t(near) & low.mask;
        at[compact_code_bytes + compact_low_bytes] = uint8_t(far) & high.mask;
        masks &= low.mask & high.mask;
    }
    return masks != 0xff;
}

class CompactJob : public Job {
  public:
    CompactJob(const Team& team, const uint16_t* weight, int64_t rows, int64_t columns, uint8_t* out, int64_t most)
        : Job(1, team.size()), weight_(weight), rows_(rows), columns_(columns), most_(most), out_(out),
          exceptions_((rows + panel_rows - 1) / panel_rows) {}

    void work(int thread) override {
        run_phase(0, thread, int64_t(exceptions_.size()), 4, [&](int64_t first, int64_t last) {
            for (int64_t panel = first; panel < last; panel++) {
                pack(panel);
            }
        });
    }

    // Put all panels' exceptions one after the other. Returns their number, or -1 where there are too many.
    int64_t gather(Exception* out) const {
        if (found_ > most_) {
            return -1;
        }
        int64_t count = 0;
        for (size_t panel = 0; panel < exceptions_.size(); panel++) {
            const std::vector<Exception>& found = exceptions_[panel];
            std::copy(found.begin(), found.end(), out + count);
            auto* header = reinterpret_cast<CompactHeader*>(out_ + place(int64_t(panel)).header);
            header->first = int32_t(count);
            count += int64_t(found.size());
            header->last = int32_t(count);
        }
        return count;
    }

  private:
    CompactPlace place(int64_t panel) const { return {rows_, columns_, panel}; }

    void pack(int64_t panel) {
        if (found_.load(std::memory_order_relaxed) > most_) {
            return;
        }
        const int64_t rows = std::min(panel_rows, rows_ - panel * panel_rows);
        const uint16_t* weights = weight_ + panel * panel_rows * columns_;
        const CompactHeader header = choose(weights, rows * columns_);
        Coding codings[256] = {};
        const auto code_of = [&](uint8_t high) {
            return uint8_t(std::find(header.table, header.table + 16, high) - header.table);
        };
        std::fill_n(codings, 256, Coding{code_of(uint8_t(header.placeholder >> 8)), 0});
        for (uint8_t code = 0; code < 16; code++) {
            codings[header.table[code]] = {code, 0xff};
        }
        std::memcpy(out_ + place(panel).header, &header, sizeof header);
        for (int64_t lane = 0; lane < panel_rows; lane++) {
            pack_row(lane < rows ? weights + lane * columns_ : nullptr, panel, lane, codings, header.placeholder);
        }
        found_.fetch_add(int64_t(exceptions_[panel].size()), std::memory_order_relaxed);
    }

    // Null is a row of padding, which is placeholders, as are columns of padding.
    void pack_row(const uint16_t* row, int64_t panel, int64_t lane, const Coding* codings, uint16_t placeholder) {
        const CompactPlace where = place(panel);
        uint8_t* unit = out_ + where.units;
        for (int64_t k = 0; k < columns_; k += compact_columns, unit += where.stride) {
            const int64_t here = row ? std::min(columns_ - k, compact_columns) : 0;
            uint16_t weights[compact_columns];
            std::fill_n(weights, compact_columns, placeholder);
            std::copy_n(row + (row ? k : 0), here, weights);
            if (!pack_unit(weights, lane, codings, unit)) {
                continue;
            }
            for (int64_t column = 0; column < here; column++) {
                if (!codings[weights[column] >> 8].mask) {
                    exceptions_[panel].push_back({int32_t(k + column), uint16_t(lane), weights[column]});
                }
            }
        }
    }

    const uint16_t* weight_;
    const int64_t rows_, columns_, most_;
    uint8_t* out_;
    std::vector<std::vector<Exception>> exceptions_;  // of each panel
    std::atomic<int64_t> found_{0};
};

}  // namespace

int64_t make_compact(Team& team, const uint16_t* weight, int64_t rows, int64_t columns, uint8_t* out,
                     Exception* exceptions, int64_t most) {
    auto job = std::make_shared<CompactJob>(team, weight, rows, columns, out, most);
    team.run(job);
    return job->gather(exceptions);
}

}  // namespace tandem
