// What lies where in the segment that the ranks of one host share?
//
//   Header | Control of rank 0 | … | Control of rank N-1 | buffer 0: slot of rank 0 | … | buffer 1: slot of rank 0 | …
//
// A new segment is zero, and zero is the start state of everything in it.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace tandem::collectives {

constexpr int kBuffers = 2;
// Two cache lines: the prefetcher of many CPUs fetches them in pairs.
constexpr size_t kSeparationBytes = 128;

struct alignas(kSeparationBytes) Header {
  std::atomic<uint32_t> given_up;  // 0, or 1 + the rank on whose account some rank gave the group up
};

// Written by its own rank alone, except for `sleepers`.
struct alignas(kSeparationBytes) Control {
  std::atomic<uint32_t> sequence;  // pieces published so far; the others wait for it to grow (a futex word)
  std::atomic<uint32_t> sleepers;  // ranks that sleep until `sequence` changes
  std::atomic<int64_t> counts[kBuffers];  // floats in this rank's slot of each buffer
};

static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<uint32_t>) == 4, "a futex word has 32 bits");

class Layout {
 public:
  Layout(void* memory, int world_size, int64_t slot_floats)
      : memory_(static_cast<char*>(memory)), world_size_(world_size), slot_bytes_(slot_bytes(slot_floats)) {}

  Header& header() const { return *reinterpret_cast<Header*>(memory_); }

  Control& control(int rank) const {
    return *reinterpret_cast<Control*>(memory_ + sizeof(Header) + rank * sizeof(Control));
  }

  float* slot(int buffer, int rank) const {
    const size_t index = static_cast<size_t>(buffer) * world_size_ + rank;
    return reinterpret_cast<float*>(memory_ + control_bytes(world_size_) + index * slot_bytes_);
  }

  static size_t segment_bytes(int world_size, int64_t slot_floats) {
    return control_bytes(world_size) + kBuffers * world_size * slot_bytes(slot_floats);
  }

 private:
  static size_t control_bytes(int world_size) { return sizeof(Header) + world_size * sizeof(Control); }

  static size_t slot_bytes(int64_t slot_floats) {
    const size_t bytes = static_cast<size_t>(slot_floats) * sizeof(float);
    return (bytes + kSeparationBytes - 1) / kSeparationBytes * kSeparationBytes;
  }

  char* memory_;
  int world_size_;
  size_t slot_bytes_;
};

}  // namespace tandem::collectives
