#include "team.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tandem {

namespace {

// A phase of a decode step takes 5 to 100 microseconds, a sleeping thread 50 to wake up: spin about that long, and
// no longer, for whoever is waited for may need this very core.
constexpr int spins = 2000;
constexpr int yields = 100;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void wait_while_equal(std::atomic<uint32_t>& word, uint32_t value) {
    for (int i = 0; i < spins; i++) {
        if (word.load(std::memory_order_acquire) != value) {
            return;
        }
        relax();
    }
    for (int i = 0; i < yields; i++) {
        if (word.load(std::memory_order_acquire) != value) {
            return;
        }
        std::this_thread::yield();
    }
    word.wait(value, std::memory_order_acquire);
}

}  // namespace

Team::Team(int num_threads) : size_(std::max(1, num_threads)) {
    for (int thread = 1; thread < size_; thread++) {
        threads_.emplace_back([this, thread] { follow(thread); });
    }
}

Team::~Team() {
    ended_ = true;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

void Team::run(const std::function<void(int)>& work) {
    taken_.store(0, std::memory_order_relaxed);
    work_ = &work;
    started_.fetch_add(1, std::memory_order_release);
    started_.notify_all();
    work(0);
    barrier();
}

void Team::follow(int thread) {
    for (uint32_t run = 0;; run++) {
        wait_while_equal(started_, run);
        if (ended_) {
            return;
        }
        (*work_)(thread);
        barrier();
    }
}

void Team::barrier() {
    if (size_ == 1) {
        taken_.store(0, std::memory_order_relaxed);
        return;
    }
    const uint32_t here = passed_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) {
        wait_while_equal(passed_, here);
        return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    taken_.store(0, std::memory_order_relaxed);
    passed_.store(here + 1, std::memory_order_release);
    passed_.notify_all();
}

bool Team::take(int64_t total, int64_t piece, int64_t& first, int64_t& last) {
    first = taken_.fetch_add(piece, std::memory_order_relaxed);
    last = std::min(first + piece, total);
    return first < total;
}

}  // namespace tandem
