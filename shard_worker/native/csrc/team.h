// A team of threads that runs one job at a time. A job is a sequence of phases, dealt out piece by piece; a phase is
// over when its pieces are done, not when every thread has come by: a thread that lost its core to another service
// delays nobody unless it holds a piece, and in a backed phase not even then.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "claim.h"

namespace tandem {

class Job {
  public:
    Job(int64_t num_phases, int num_threads)
        : num_ranges_(std::min(num_threads, most_ranges)), phases_(num_phases), claims_(num_threads) {}
    virtual ~Job() = default;

    // All threads run this; thread 0 is the caller. A thread may come late, when all is done and the memory that
    // others than the job own is gone: outside of pieces only the job's own may be read.
    virtual void work(int thread) = 0;

  protected:
    enum Pieces { equal, shrinking };

    // Run body(first, last) for pieces of [0, total) until all are done. What they wrote is then visible. Shrinking
    // pieces hold half of what is left, and `piece` in the end: memory gives more to long runs than to short ones.
    template <class Body>
    void run_phase(int64_t index, int thread, int64_t total, int64_t piece, Body body, Pieces pieces = equal) {
        Phase& phase = phases_[index];
        const Split split(total, piece, num_ranges_, pieces);
        deal(phase, thread, split, [&](int64_t first, int64_t last) {
            body(first, last);
            phase.add(split, first, last);
        });
        phase.wait(split.ranges);
    }

    // The same for compute(first, last) and then commit(first, last): who waits long for a piece computes it anew.
    // compute may run on several threads, also when the phase is over and others change what it reads: it may write
    // only what is its thread's own, and what it makes of changed inputs is thrown away. commit runs once, in time.
    template <class Compute, class Commit>
    void run_backed_phase(int64_t index, int thread, int64_t total, int64_t piece, Compute compute, Commit commit,
                          Pieces pieces = equal) {
        Phase& phase = phases_[index];
        Claim& own = claims_[thread];
        const Split split(total, piece, num_ranges_, pieces);
        const Clock::time_point began = Clock::now();
        int64_t count = 1;
        const auto finish = [&](int64_t first, int64_t last) {
            commit(first, last);
            phase.add(split, first, last);
        };
        deal(phase, thread, split, [&](int64_t first, int64_t last) {
            const uint64_t claimed = own.open(index, first);
            compute(first, last);
            if (own.close(claimed)) {
                finish(first, last);
            }
            count++;
        });
        // A piece may take its time: several times as long as ours did.
        const Clock::duration patience = 4 * (Clock::now() - began) / count;
        for (bool helped = true; helped && !phase.is_over_within(patience, split.ranges);) {
            helped = false;
            own.help();
            for (Claim& other : claims_) {
                if (const uint64_t claimed = other.held(index)) {
                    const int64_t first = Claim::first_of(claimed), last = split.last(first);
                    compute(first, last);
                    if (other.take(claimed)) {
                        finish(first, last);
                    }
                    helped = true;
                }
            }
            own.rest();
        }
        phase.wait(split.ranges);
    }

    // Run body() on thread 0 alone.
    template <class Body>
    void run_alone(int64_t index, int thread, Body body) {
        if (thread == 0) {
            body();
            phases_[index].add(Split(1, 1, 1, equal), 0, 1);
        } else {
            phases_[index].wait(1);
        }
    }

  private:
    friend class Team;
    using Clock = std::chrono::steady_clock;

    static constexpr int most_ranges = 8;

    // Where a phase is cut: into `ranges` ranges, each but the last of `share` times the smallest piece, and these into
    // pieces (shrinking ones: guided self-scheduling, Polychronopoulos and Kuck 1987). A thread that shares with nobody
    // takes all at once instead of ever less.
    struct Split {
        Split(int64_t total, int64_t piece, int64_t most_ranges, Pieces pieces)
            : total(total), smallest(most_ranges == 1 && pieces == shrinking ? std::max<int64_t>(total, 1) : piece),
              pieces(pieces) {
            const int64_t count = (total + smallest - 1) / smallest;
            share = std::max<int64_t>((count + most_ranges - 1) / most_ranges, 1);
            ranges = uint32_t((count + share - 1) / share);
        }

        int64_t begin(int64_t range) const { return std::min(range * share * smallest, total); }
        int64_t range_of(int64_t first) const { return first / (share * smallest); }

        // Where piece `index` of a range begins; past its pieces: where the range ends.
        int64_t first(int64_t range, int64_t index) const {
            int64_t left = pieces == equal ? std::max<int64_t>(share - index, 0) : share;
            for (; pieces == shrinking && left > 0 && index > 0; index--) {
                left -= size(left);
            }
            return std::min(((range + 1) * share - left) * smallest, total);
        }

        // Where the piece that begins there ends.
        int64_t last(int64_t first) const {
            int64_t left = share - first / smallest % share;
            return std::min(first + size(left) * smallest, begin(range_of(first) + 1));
        }

        // Of the pieces that are left, how many smallest ones the next one is.
        int64_t size(int64_t left) const { return pieces == shrinking ? (left + 1) / 2 : 1; }

        const int64_t total, smallest;
        const Pieces pieces;
        int64_t share;
        uint32_t ranges;
    };

    // How many of a range's pieces are dealt out, and how much of it is done. Mostly one thread's business: what all
    // threads count in would travel between their cores with every piece.
    struct alignas(64) Range {
        std::atomic<uint32_t> taken{0}, done{0};
    };

    struct alignas(64) Phase {
        Range ranges[most_ranges];
        std::atomic<uint32_t> done{0};  // ranges
        std::atomic<uint32_t> sleepers{0};

        void add(const Split& split, int64_t first, int64_t last);
        void wait(uint32_t all);
        bool is_over_within(Clock::duration patience, uint32_t all);
    };

    // Call take(first, last) for pieces that nobody else has. A thread begins in a range of its own, where it reads on
    // from piece to piece: memory gives more to one stream for each thread than to threads that take turns in one.
    // When its range is dealt out it helps in the others.
    template <class Take>
    void deal(Phase& phase, int thread, const Split& split, Take take) {
        for (int turn = 0; turn < num_ranges_; turn++) {
            const int range = (thread + turn) % num_ranges_;
            const int64_t end = split.begin(range + 1);
            std::atomic<uint32_t>& taken = phase.ranges[range].taken;
            for (;;) {
                const int64_t first = split.first(range, taken.fetch_add(1, std::memory_order_relaxed));
                if (first >= end) {
                    break;
                }
                take(first, split.last(first));
            }
        }
    }

    // Return when no thread reads what compute() reads. To be called when all phases are over.
    void settle() const {
        for (const Claim& claim : claims_) {
            claim.settle();
        }
    }

    const int num_ranges_;
    std::vector<Phase> phases_;
    std::vector<Claim> claims_;
};

class Team {
  public:
    explicit Team(int num_threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Return when thread 0 has seen the end of the job. Not to be called from two threads at once.
    void run(std::shared_ptr<Job> job);

  private:
    void follow(int thread);

    const int size_;
    std::mutex mutex_;
    std::shared_ptr<Job> job_;
    bool ended_ = false;
    alignas(64) std::atomic<uint32_t> started_{0};
    std::vector<std::thread> threads_;
};

}  // namespace tandem
