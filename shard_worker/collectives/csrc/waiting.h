// How does a rank wait until another one has published a piece, and how does it tell the others that it has?
//
// Spinning answers fastest, but takes the core from a rank that has none of its own; a sleep leaves the core alone but
// costs a wake-up, tens of microseconds in a virtual machine. So: spin briefly, then offer the core to whoever wants it
// (sched_yield returns at once where nobody does), then sleep on a futex.

#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>

#include "layout.h"

namespace tandem::collectives {

struct Patience {
  int64_t spin_ns;
  int64_t yield_ns;
  int64_t sleep_ns;  // the longest sleep before the peers are looked at
};

inline int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

inline void relax_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

// The counter wraps around, hence the difference.
inline bool has_published(const Control& peer, uint32_t sequence) {
  return static_cast<int32_t>(peer.sequence.load(std::memory_order_acquire) - sequence) >= 0;
}

// Sequentially consistent, like the sleeper's own order: it announces itself, then looks at `sequence`; we change
// `sequence`, then look for sleepers. One of the two sees the other.
inline void publish(Control& self, uint32_t sequence) {
  self.sequence.store(sequence, std::memory_order_seq_cst);
  if (self.sleepers.load(std::memory_order_seq_cst) != 0) {
    futex(self.sequence, FUTEX_WAKE, INT_MAX, nullptr);
  }
}

inline void sleep_until_published(Control& peer, uint32_t sequence, int64_t longest_ns) {
  const timespec longest{static_cast<time_t>(longest_ns / 1'000'000'000), static_cast<long>(longest_ns % 1'000'000'000)};
  peer.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const uint32_t seen = peer.sequence.load(std::memory_order_seq_cst);
  if (static_cast<int32_t>(seen - sequence) < 0) {
    futex(peer.sequence, FUTEX_WAIT, seen, &longest);  // returns at once if it has changed since
  }
  peer.sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

// Return a zero once `peer` has published `sequence`. `look` is asked after every sleep, and what it returns ends the
// wait if it is not zero.
template <typename Look>
auto wait_until_published(Control& peer, uint32_t sequence, const Patience& patience, Look look)
    -> decltype(look()) {
  constexpr int kLooksPerClock = 32;
  if (has_published(peer, sequence)) return {};
  const int64_t spin_end_ns = now_ns() + patience.spin_ns;
  do {
    for (int i = 0; i < kLooksPerClock; ++i) {
      if (has_published(peer, sequence)) return {};
      relax_cpu();
    }
  } while (now_ns() < spin_end_ns);
  const int64_t yield_end_ns = spin_end_ns + patience.yield_ns;
  do {
    sched_yield();
    if (has_published(peer, sequence)) return {};
  } while (now_ns() < yield_end_ns);
  for (;;) {
    sleep_until_published(peer, sequence, patience.sleep_ns);
    if (has_published(peer, sequence)) return {};
    const auto verdict = look();
    if (verdict != decltype(look()){}) return verdict;
  }
}

}  // namespace tandem::collectives
