// How do the ranks of one host add up their parts?
//
// One-shot: every rank copies its part to its own slot, says so, waits for the others and adds up all slots itself, in
// rank order. All ranks thus get the same bits, whatever the timing. Two buffers take turns, so that one wait per piece
// is enough: a rank writes to a buffer again two pieces later, and to get there it must have seen the piece between
// published by all others, which they do only when they are done with the first.

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "layout.h"
#include "waiting.h"

namespace tandem::collectives {

// Mirrored in shared_memory.py.
enum Failure { kNone = 0, kEnded = 1, kLate = 2, kGivenUp = 3, kOutOfStep = 4 };

constexpr int64_t kSleepNs = 50'000'000;

class Group {
 public:
  Group(void* memory, int file, int rank, int world_size, int64_t slot_floats, int64_t timeout_ns, Patience patience)
      : layout_(memory, world_size, slot_floats),
        file_(file),
        rank_(rank),
        world_size_(world_size),
        slot_floats_(slot_floats),
        timeout_ns_(timeout_ns),
        patience_(patience) {}

  Failure all_reduce(const float* part, float* total, int64_t count) {
    const int64_t began_ns = now_ns();
    for (int64_t done = 0; done < count && failure_ == kNone; done += slot_floats_) {
      failure_ = reduce_piece(part + done, total + done, std::min(slot_floats_, count - done));
    }
    spent_ns_ += now_ns() - began_ns;
    return failure_;
  }

  int rank_at_fault() const { return static_cast<int>(layout_.header().given_up.load()) - 1; }

  int64_t take_spent_ns() {
    const int64_t spent_ns = spent_ns_;
    spent_ns_ = 0;
    return spent_ns;
  }

 private:
  Failure reduce_piece(const float* part, float* total, int64_t count) {
    if (layout_.header().given_up.load(std::memory_order_relaxed) != 0) return kGivenUp;
    const uint32_t sequence = ++sequence_;
    const int buffer = sequence % kBuffers;
    Control& self = layout_.control(rank_);
    std::memcpy(layout_.slot(buffer, rank_), part, count * sizeof(float));
    self.counts[buffer].store(count, std::memory_order_relaxed);
    publish(self, sequence);
    const int64_t deadline_ns = now_ns() + timeout_ns_;
    for (int peer = 0; peer < world_size_; ++peer) {
      if (peer == rank_) continue;
      Control& control = layout_.control(peer);
      const Failure failure =
          wait_until_published(control, sequence, patience_, [&] { return look_at_peers(sequence, deadline_ns); });
      if (failure != kNone) return failure;
      if (control.counts[buffer].load(std::memory_order_relaxed) != count) return give_up(peer, kOutOfStep);
    }
    add_in_rank_order(buffer, total, count);
    return kNone;
  }

  // In runs that stay in the first-level cache while the ranks' parts are added to them.
  void add_in_rank_order(int buffer, float* total, int64_t count) const {
    constexpr int64_t kRunFloats = 2048;
    for (int64_t first = 0; first < count; first += kRunFloats) {
      const int64_t size = std::min(kRunFloats, count - first);
      float* __restrict__ sum = total + first;
      std::memcpy(sum, layout_.slot(buffer, 0) + first, size * sizeof(float));
      for (int rank = 1; rank < world_size_; ++rank) {
        const float* __restrict__ part = layout_.slot(buffer, rank) + first;
        for (int64_t i = 0; i < size; ++i) sum[i] += part[i];
      }
    }
  }

  Failure look_at_peers(uint32_t sequence, int64_t deadline_ns) {
    if (layout_.header().given_up.load() != 0) return kGivenUp;
    const bool late = now_ns() >= deadline_ns;
    for (int peer = 0; peer < world_size_; ++peer) {
      if (peer == rank_ || has_published(layout_.control(peer), sequence)) continue;
      // A rank that published this piece and ended then has done its part: hence the second look.
      if (!is_alive(peer) && !has_published(layout_.control(peer), sequence)) return give_up(peer, kEnded);
      if (late) return give_up(peer, kLate);
    }
    return kNone;
  }

  // Every rank holds a lock on the byte of its number, which the kernel takes from it when it ends, however it ends.
  bool is_alive(int peer) const {
    struct flock probe {};
    probe.l_type = F_WRLCK;
    probe.l_whence = SEEK_SET;
    probe.l_start = peer;
    probe.l_len = 1;
    return fcntl(file_, F_GETLK, &probe) != 0 || probe.l_type != F_UNLCK;
  }

  // What one rank cannot finish, no rank may go on with.
  Failure give_up(int peer, Failure failure) {
    uint32_t nobody = 0;
    layout_.header().given_up.compare_exchange_strong(nobody, static_cast<uint32_t>(peer) + 1);
    return failure;
  }

  Layout layout_;
  int file_;
  int rank_;
  int world_size_;
  int64_t slot_floats_;
  int64_t timeout_ns_;
  Patience patience_;
  Failure failure_ = kNone;
  uint32_t sequence_ = 0;
  int64_t spent_ns_ = 0;
};

}  // namespace tandem::collectives

using tandem::collectives::Group;

// What Python and the native decoder call. A group is used by one thread at a time.
#pragma GCC visibility push(default)
extern "C" {

int64_t tandem_collectives_segment_bytes(int world_size, int64_t slot_floats) {
  return static_cast<int64_t>(tandem::collectives::Layout::segment_bytes(world_size, slot_floats));
}

void* tandem_collectives_open(
    void* memory, int file, int rank, int world_size, int64_t slot_floats, int64_t timeout_ns, int64_t spin_ns,
    int64_t yield_ns
) {
  return new Group(
      memory, file, rank, world_size, slot_floats, timeout_ns, {spin_ns, yield_ns, tandem::collectives::kSleepNs}
  );
}

// total[0..count) = sum of all ranks' parts; `total` may be `part`. Returns a Failure, 0 for success; after a failure,
// always that.
int tandem_collectives_all_reduce(void* group, const float* part, float* total, int64_t count) {
  return static_cast<Group*>(group)->all_reduce(part, total, count);
}

int tandem_collectives_rank_at_fault(void* group) { return static_cast<Group*>(group)->rank_at_fault(); }

int64_t tandem_collectives_take_spent_ns(void* group) { return static_cast<Group*>(group)->take_spent_ns(); }

void tandem_collectives_close(void* group) { delete static_cast<Group*>(group); }

}  // extern "C"
#pragma GCC visibility pop
