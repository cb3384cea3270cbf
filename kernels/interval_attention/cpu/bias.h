// The relative biases of a tile, and what its gradient adds to the two tables.
#pragma once

#include "schedule.h"

namespace freshet {

// The tables of one unit. The position table is unrolled to one number per column and shift, so that
// a row of a tile reads, and its gradient writes, neighbours.
template <typename T>
class UnitBias {
 public:
  template <typename S>
  void start(const Problem<T, S>& problem, const Unit& unit, bool with_gradient) {
    tables_ = &problem.bias;
    first_row_ = problem.q_offsets[unit.sequence];
    first_column_ = problem.kv_offsets[unit.sequence];
    guess_ = 0;
    num_columns_ = problem.kv_offsets[unit.sequence + 1] - first_column_;
    if (tables_->position != nullptr) unroll(unit.rows, with_gradient);
    if (with_gradient) time_gradient_.assign(kCopies * tables_->num_buckets, 0.0);
  }

  // bias[kRowBlock, kTileColumns] of a tile, which begins at (first_row, first_column), as far as the
  // band goes; keeps the buckets for `add`.
  void look_up(int64_t first_row, int64_t first_column, const Band& band, T* bias) {
    band.each_rows([&](Range rows, Range columns) {
      const Range seen{first_column + columns.lo, first_column + columns.hi};
      for (int64_t row = rows.lo; row < rows.hi; ++row) {
        T* const line = bias + row * kTileColumns + columns.lo;
        if (tables_->time != nullptr) {
          look_up_times(first_row + row, seen, line, buckets_ + row * kTileColumns + columns.lo);
        }
        if (tables_->position == nullptr) continue;
        const T* const near = unrolled_.peek() + shift(first_row + row) + seen.lo;
        const int64_t width = columns.hi - columns.lo;
        if (tables_->time == nullptr) std::fill_n(line, width, T(0));
        for (int64_t c = 0; c < width; ++c) line[c] += near[c];
      }
    });
  }

  // Add the gradient of the tile last looked up, zero where a row does not attend.
  void add(int64_t first_row, int64_t first_column, const Band& band, const T* gradient) {
    band.each_rows([&](Range rows, Range columns) {
      const int64_t end = std::min(columns.hi, num_columns_ - first_column);
      for (int64_t row = rows.lo; row < rows.hi; ++row) {
        const T* const line = gradient + row * kTileColumns;
        if (tables_->position != nullptr) {
          T* const near = position_gradient_.get(0) + shift(first_row + row) + first_column;
          for (int64_t c = columns.lo; c < end; ++c) near[c] += line[c];
        }
        if (tables_->time == nullptr) continue;
        const int32_t* const buckets = buckets_ + row * kTileColumns;
        // Neighbours often share a bucket: with copies an addition needs not wait for the last.
        for (int64_t c = columns.lo; c < end; ++c) {
          time_gradient_[kCopies * buckets[c] + c % kCopies] += line[c];
        }
      }
    });
  }

  // Hand over the sums of this unit: one per distance and one per bucket.
  void finish(std::vector<double>& position, std::vector<double>& time) const {
    if (tables_->position != nullptr) {
      position.assign(clamp_distance(most_) + 1, 0.0);
      for (int64_t at = 0; at < length_; ++at) {
        position[clamp_distance(most_ - at)] += position_gradient_.peek()[at];
      }
    }
    time.assign(tables_->num_buckets, 0.0);
    for (int64_t at = 0; at < kCopies * tables_->num_buckets; ++at) {
      time[at / kCopies] += time_gradient_[at];
    }
  }

 private:
  static constexpr int64_t kCopies = 4;

  int64_t clamp_distance(int64_t distance) const {
    return std::clamp<int64_t>(distance, 0, tables_->num_positions - 1);
  }

  // Any position beyond these gives every column the same distance after clamping.
  int64_t position(int64_t row) const {
    const int64_t given = tables_->q_positions[first_row_ + row];
    return std::clamp<int64_t>(given, -1, tables_->num_positions - 1 + num_columns_);
  }

  int64_t shift(int64_t row) const { return most_ - position(row); }

  void unroll(Range rows, bool with_gradient) {
    int64_t least = position(rows.lo);
    most_ = least;
    for (int64_t row = rows.lo; row < rows.hi; ++row) {
      least = std::min(least, position(row));
      most_ = std::max(most_, position(row));
    }
    // A tile may end up to a panel after the last column.
    length_ = most_ - least + num_columns_ + kPanel<T>;
    T* const unrolled = unrolled_.get(length_);
    for (int64_t at = 0; at < length_; ++at) {
      unrolled[at] = tables_->position[clamp_distance(most_ - at)];
    }
    if (with_gradient) std::fill_n(position_gradient_.get(length_), length_, T(0));
  }

  void look_up_times(int64_t row, Range tile, T* line, int32_t* buckets) {
    const int64_t now = tables_->q_times_ms[first_row_ + row];
    const int64_t* const times = tables_->kv_times_ms + first_column_;
    const int64_t used = std::min(tile.hi, num_columns_);
    int32_t bucket = guess_;
    for (int64_t c = tile.lo; c < used; ++c) {
      // The neighbour's bucket, at first the one above, is a guess: in time order nearly always right.
      bucket = settle(elapsed(now, times[c]), bucket);
      buckets[c - tile.lo] = bucket;
      line[c - tile.lo] = tables_->time[bucket];
    }
    if (tile.lo < used) guess_ = buckets[0];
    std::fill(line + (used - tile.lo), line + (tile.hi - tile.lo), T(0));
  }

  // Times that lie too far apart wrap around, as they do in PyTorch.
  static int64_t elapsed(int64_t now, int64_t then) {
    return static_cast<int64_t>(static_cast<uint64_t>(now) - static_cast<uint64_t>(then));
  }

  int32_t settle(int64_t elapsed_ms, int32_t bucket) const {
    const int64_t* const edges = tables_->edges_ms;
    while (bucket > 0 && elapsed_ms < edges[bucket - 1]) --bucket;
    while (bucket < tables_->num_buckets - 1 && elapsed_ms >= edges[bucket]) ++bucket;
    return bucket;
  }

  const BiasTables<T>* tables_ = nullptr;
  int64_t first_row_ = 0, first_column_ = 0, num_columns_ = 0;
  int64_t most_ = 0, length_ = 0;
  Buffer<T> unrolled_, position_gradient_;
  std::vector<double> time_gradient_;
  int32_t guess_ = 0;
  int32_t buckets_[kRowBlock * kTileColumns];
};

}  // namespace freshet
