// A team of threads that runs one function at a time, with barriers inside it and work dealt out in turn.
// The caller is thread 0. Waiting spins for some microseconds, then yields, then sleeps: ranks and other services
// share the processor.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace tandem {

class Team {
  public:
    explicit Team(int num_threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return size_; }

    // Run work(thread) on every thread and return when all are done. Not to be called from two threads at once.
    void run(const std::function<void(int)>& work);

    // Wait for all threads of the running function. What they wrote before is visible after.
    void barrier();

    // The next piece of [0, total) not yet taken since the last barrier; false when there is none.
    bool take(int64_t total, int64_t piece, int64_t& first, int64_t& last);

  private:
    void follow(int thread);

    const int size_;
    const std::function<void(int)>* work_ = nullptr;
    bool ended_ = false;
    std::vector<std::thread> threads_;
    // Apart by cache lines: each is written while others are spun on.
    alignas(64) std::atomic<uint32_t> started_{0};
    alignas(64) std::atomic<uint32_t> passed_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int64_t> taken_{0};
};

}  // namespace tandem
