#include "team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tandem {

namespace {

// A phase of a decode step takes 5 to 100 microseconds, a sleeping thread 50 to wake up: spin about that long, and
// no longer, for whoever is waited for may need this very core.
constexpr int spins = 2000;
constexpr int yields = 20;

// Before a piece is computed anew.
constexpr std::chrono::microseconds shortest_patience{40};
constexpr int looks_per_clock = 8;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Whether `ready` came true before it was time to sleep.
template <class Ready>
bool came_true(Ready ready) {
    for (int i = 0; i < spins; i++) {
        if (ready()) {
            return true;
        }
        relax();
    }
    for (int i = 0; i < yields; i++) {
        if (ready()) {
            return true;
        }
        std::this_thread::yield();
    }
    return ready();
}

}  // namespace

void Job::Phase::add(const Split& split, int64_t first, int64_t last) {
    const int64_t range = split.range_of(first), size = split.begin(range + 1) - split.begin(range);
    const uint32_t count = uint32_t(last - first);
    if (ranges[range].done.fetch_add(count, std::memory_order_acq_rel) + count != size) {
        return;
    }
    // Sequentially consistent, as is the sleepers' side: either they see the last range, or we see them.
    if (done.fetch_add(1) + 1 == split.ranges && sleepers.load()) {
        done.notify_all();
    }
}

void Job::Phase::wait(uint32_t all) {
    if (came_true([&] { return done.load(std::memory_order_acquire) == all; })) {
        return;
    }
    sleepers.fetch_add(1);
    for (uint32_t seen = done.load(); seen != all; seen = done.load()) {
        done.wait(seen);
    }
    sleepers.fetch_sub(1);
}

bool Job::Phase::is_over_within(Clock::duration patience, uint32_t all) {
    const auto is_over = [&] { return done.load(std::memory_order_acquire) == all; };
    if (is_over()) {
        return true;
    }
    const Clock::time_point end = Clock::now() + std::max<Clock::duration>(patience, shortest_patience);
    do {
        for (int i = 0; i < looks_per_clock; i++) {
            if (is_over()) {
                return true;
            }
            relax();
        }
    } while (Clock::now() < end);
    return is_over();
}

Team::Team(int num_threads) : size_(std::max(1, num_threads)) {
    for (int thread = 1; thread < size_; thread++) {
        threads_.emplace_back([this, thread] { follow(thread); });
    }
}

Team::~Team() {
    {
        std::lock_guard lock(mutex_);
        ended_ = true;
        job_ = nullptr;
    }
    started_.fetch_add(1);
    started_.notify_all();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

void Team::run(std::shared_ptr<Job> job) {
    if (size_ > 1) {
        std::lock_guard lock(mutex_);
        job_ = job;
    }
    started_.fetch_add(1);
    started_.notify_all();
    job->work(0);
    job->settle();
    if (size_ > 1) {
        std::lock_guard lock(mutex_);
        job_ = nullptr;  // who wakes up only now has nothing to do
    }
}

void Team::follow(int thread) {
    for (uint32_t seen = 0;;) {
        if (!came_true([&] { return started_.load(std::memory_order_acquire) != seen; })) {
            started_.wait(seen);
        }
        seen = started_.load(std::memory_order_acquire);
        std::shared_ptr<Job> job;
        {
            std::lock_guard lock(mutex_);
            if (ended_) {
                return;
            }
            job = job_;
        }
        if (job) {
            job->work(thread);
        }
    }
}

}  // namespace tandem
