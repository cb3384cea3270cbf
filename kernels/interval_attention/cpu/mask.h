// Which columns a block of rows attends, and which tiles hold them.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "vector.h"

namespace freshet {

struct Range {
  int64_t lo;
  int64_t hi;
  bool empty() const { return lo >= hi; }
};

// A row's two intervals, the lower one first, both empty ones at the end.
using RowMask = std::array<Range, 2>;

inline RowMask row_mask(const int32_t* interval) {
  Range first{interval[0], interval[1]}, second{interval[2], interval[3]};
  if (first.empty() || (!second.empty() && second.lo < first.lo)) std::swap(first, second);
  if (first.empty()) first = {0, 0};
  if (second.empty()) second = {first.hi, first.hi};
  return {first, second};
}

// The smallest two ranges, on multiples of `step`, outside of which no row attends a column.
inline std::array<Range, 2> cover(const RowMask* rows, int64_t count, int64_t step) {
  std::array<Range, 2> ranges{{{INT64_MAX, 0}, {INT64_MAX, 0}}};
  for (int64_t row = 0; row < count; ++row) {
    for (int part = 0; part < 2; ++part) {
      if (rows[row][part].empty()) continue;
      ranges[part].lo = std::min(ranges[part].lo, rows[row][part].lo / step * step);
      ranges[part].hi = std::max(ranges[part].hi, round_up(rows[row][part].hi, step));
    }
  }
  for (Range& range : ranges) {
    if (range.empty()) range = {0, 0};
  }
  const bool apart = ranges[0].empty() || ranges[1].empty() || ranges[0].hi <= ranges[1].lo ||
                     ranges[1].hi <= ranges[0].lo;
  if (apart) return ranges;
  const Range joined{std::min(ranges[0].lo, ranges[1].lo), std::max(ranges[0].hi, ranges[1].hi)};
  return {joined, Range{0, 0}};
}

// The cover cut into tiles of at most `width` columns, from left to right.
inline void tiles_of(
    std::vector<Range>& tiles, const RowMask* rows, int64_t count, int64_t step, int64_t width) {
  std::array<Range, 2> ranges = cover(rows, count, step);
  if (ranges[1].lo < ranges[0].lo) std::swap(ranges[0], ranges[1]);
  tiles.clear();
  for (const Range& range : ranges) {
    for (int64_t lo = range.lo; lo < range.hi; lo += width) {
      tiles.push_back({lo, std::min(lo + width, range.hi)});
    }
  }
}

// Overwrite what the row does not attend among a tile's columns.
template <typename T>
inline void fill_unseen(T* line, const RowMask& row, Range tile, T value) {
  const auto clamp = [&](int64_t column) { return std::clamp(column, tile.lo, tile.hi) - tile.lo; };
  std::fill(line, line + clamp(row[0].lo), value);
  std::fill(line + clamp(row[0].hi), line + std::max(clamp(row[0].hi), clamp(row[1].lo)), value);
  std::fill(line + std::max(clamp(row[0].hi), clamp(row[1].hi)), line + (tile.hi - tile.lo), value);
}

}  // namespace freshet
