// A team of threads that runs one job at a time. A job is a sequence of phases, dealt out piece by piece; a phase is
// over when its pieces are done, not when every thread has come by: a thread that lost its core to another service
// delays nobody unless it holds a piece.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tandem {

class Job {
  public:
    Job(int64_t num_phases, int num_threads) : num_ranges_(std::min(num_threads, most_ranges)), phases_(num_phases) {}
    virtual ~Job() = default;

    // All threads run this; thread 0 is the caller. A thread may come late, when all is done and the memory that
    // others than the job own is gone: outside of pieces only the job's own may be read.
    virtual void work(int thread) = 0;

  protected:
    // Run body(first, last) for pieces of [0, total) until all are done. What they wrote is then visible. A thread
    // begins in a range of its own, where it reads on from piece to piece: memory gives more to one stream for each
    // thread than to threads that take turns in one. When its range is dealt out it helps in the others.
    template <class Body>
    void run_phase(int64_t index, int thread, int64_t total, int64_t piece, Body body) {
        Phase& phase = phases_[index];
        const uint32_t all = uint32_t(total);
        const int64_t pieces = (total + piece - 1) / piece, share = (pieces + num_ranges_ - 1) / num_ranges_ * piece;
        for (int turn = 0; turn < num_ranges_; turn++) {
            const int range = (thread + turn) % num_ranges_;
            const int64_t begin = range * share, end = std::min(begin + share, total);
            while (phase.done.load(std::memory_order_acquire) != all) {
                const int64_t first = begin + phase.taken[range].by(piece);
                if (first >= end) {
                    break;
                }
                const int64_t last = std::min(first + piece, end);
                body(first, last);
                phase.add(uint32_t(last - first), all);
            }
        }
        phase.wait(all);
    }

    // Run body() on thread 0 alone.
    template <class Body>
    void run_alone(int64_t index, int thread, Body body) {
        if (thread == 0) {
            body();
            phases_[index].add(1, 1);
        } else {
            phases_[index].wait(1);
        }
    }

  private:
    static constexpr int most_ranges = 8;

    // How much of a range is dealt out.
    struct alignas(64) Taken {
        std::atomic<uint32_t> count{0};

        int64_t by(int64_t piece) { return count.fetch_add(uint32_t(piece), std::memory_order_relaxed); }
    };

    struct alignas(64) Phase {
        Taken taken[most_ranges];
        std::atomic<uint32_t> done{0};
        std::atomic<uint32_t> sleepers{0};

        void add(uint32_t count, uint32_t all);
        void wait(uint32_t all);
    };

    const int num_ranges_;
    std::vector<Phase> phases_;
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
