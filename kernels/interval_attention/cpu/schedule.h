// Threads take units of work from one queue, the dearest first.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <vector>

#include "units.h"

namespace freshet {

// Scratch memory that a thread keeps from unit to unit; it is handed out uninitialised.
template <typename T>
class Buffer {
 public:
  const T* peek() const { return data_.get(); }

  T* get(int64_t count) {
    if (count > size_) {
      data_.reset();
      data_ = std::make_unique_for_overwrite<T[]>(count);
      size_ = count;
    }
    return data_.get();
  }

 private:
  std::unique_ptr<T[]> data_;
  int64_t size_ = 0;
};

// work(index, scratch) for every unit. Which thread does a unit decides nothing about its result.
template <typename Scratch, typename Work>
void run_units(const std::vector<Unit>& units, const Work& work) {
  std::vector<int64_t> order(units.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return units[a].cost > units[b].cost;
  });
  std::atomic<size_t> next{0};
  const int64_t workers = std::min<int64_t>(at::get_num_threads(), order.size());
  at::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    Scratch scratch;
    for (size_t place = next++; place < order.size(); place = next++) work(order[place], scratch);
  });
}

}  // namespace freshet
