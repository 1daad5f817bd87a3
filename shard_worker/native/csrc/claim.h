// Whose piece is it? A thread that computes one may lose its core for milliseconds. Another then computes the piece
// anew (a backup task: Dean and Ghemawat 2004), and whoever is first commits it: a compare-and-swap decides.
#pragma once

#include <atomic>
#include <cstdint>

namespace tandem {

// What one thread of a job is computing. Idle between pieces, and while it commits.
class alignas(64) Claim {
  public:
    // Its thread begins a piece. What is returned names the piece; within a job no two are the same.
    uint64_t open(int64_t phase, int64_t first) {
        const uint64_t piece = uint64_t(phase) << 34 | uint64_t(first) << 2 | computing;
        word_.store(piece, std::memory_order_release);
        return piece;
    }

    // Whether its thread may commit the piece it opened. If not, another thread did so.
    bool close(uint64_t piece) {
        if (word_.compare_exchange_strong(piece, idle)) {
            return true;
        }
        rest();
        return false;
    }

    // The piece of this phase that its thread computes, or 0.
    uint64_t held(int64_t phase) const {
        const uint64_t word = word_.load();
        return (word & state) == computing && word >> 34 == uint64_t(phase) ? word : idle;
    }

    static int64_t first_of(uint64_t piece) { return int64_t(uint32_t(piece >> 2)); }

    // Whether another thread, which computed the piece as well, may commit it. Its inputs were read before: where they
    // were no longer what they had been, the piece had been closed, and this fails.
    bool take(uint64_t piece) { return word_.compare_exchange_strong(piece, piece ^ computing ^ lost); }

    // Its thread computes what others hold, then rests.
    void help() { word_.store(helping); }
    void rest() {
        word_.store(idle, std::memory_order_release);
        word_.notify_all();
    }

    // Return when its thread reads no piece's inputs any more. To be called when all phases are over.
    void settle() const {
        for (uint64_t word = word_.load(); word != idle; word = word_.load()) {
            word_.wait(word);
        }
    }

  private:
    static constexpr uint64_t idle = 0, computing = 1, lost = 2, helping = 3, state = 3;

    std::atomic<uint64_t> word_{idle};
};

}  // namespace tandem
