// The gradients of keys and values where a sequence is worked on in parts: the sums of each part are
// added in the parts' order, whoever has them first.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "units.h"

namespace freshet {

template <typename T>
class ColumnSums {
 public:
  // [heads, columns, width], rounded up to panels as the parts' own sums are.
  void reserve(int64_t key_size, int64_t value_size) {
    keys_ = std::make_unique_for_overwrite<T[]>(key_size);
    values_ = std::make_unique_for_overwrite<T[]>(value_size);
  }

  T* keys() { return keys_.get(); }
  T* values() { return values_.get(); }

  // Units are begun in the order of their parts, so whoever waits waits for somebody at work.
  void wait_for_turn(int64_t part) {
    for (int64_t seen = next_.load(); seen != part; seen = next_.load()) next_.wait(seen);
  }

  void pass_turn(int64_t part) {
    wait_for_turn(part);
    next_.store(part + 1);
    next_.notify_all();
  }

 private:
  std::unique_ptr<T[]> keys_, values_;
  std::atomic<int64_t> next_{0};
};

// Passes a part's turn on at the end of its scope, also when an exception ends it.
template <typename T>
class PassTurn {
 public:
  PassTurn(ColumnSums<T>& sums, int64_t part) : sums_(sums), part_(part) {}
  ~PassTurn() { sums_.pass_turn(part_); }
  PassTurn(const PassTurn&) = delete;
  PassTurn& operator=(const PassTurn&) = delete;

 private:
  ColumnSums<T>& sums_;
  int64_t part_;
};

}  // namespace freshet
