// Which columns a block of rows attends, which tiles hold them, and what of a tile nobody attends.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "vector.h"

namespace freshet {

constexpr int64_t kRowBlock = 48;
constexpr int64_t kTileColumns = 96;
static_assert(kTileColumns % kPanel<float> == 0);
static_assert(kRowBlock % kMicroRows == 0 && kTileColumns % kMicroRows == 0);

struct Range {
  int64_t lo;
  int64_t hi;
  bool empty() const { return lo >= hi; }
  bool operator==(const Range&) const = default;
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

inline void masks_of(std::vector<RowMask>& masks, const int32_t* intervals, Range rows) {
  masks.clear();
  for (int64_t row = rows.lo; row < rows.hi; ++row) masks.push_back(row_mask(intervals + 4 * row));
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

// What of a tile products may leave out: by group of kMicroRows rows the columns that any of them
// attends, on whole panels, and by group of as many columns the rows. All count from the tile's corner.
struct Band {
  bool full;  // every row attends every column
  int64_t num_rows, num_columns;
  std::array<Range, kRowBlock / kMicroRows> columns;
  std::array<Range, kTileColumns / kMicroRows> rows;

  // work(rows, their columns), neighbours with the same columns at once.
  template <typename Work>
  void each_rows(const Work& work) const {
    each_run(columns, num_rows, work);
  }

  // work(columns, their rows), neighbours with the same rows at once.
  template <typename Work>
  void each_columns(const Work& work) const {
    each_run(rows, num_columns, work);
  }

 private:
  template <typename Ranges, typename Work>
  static void each_run(const Ranges& ranges, int64_t count, const Work& work) {
    for (int64_t lo = 0, hi; lo < count; lo = hi) {
      const Range& range = ranges[lo / kMicroRows];
      hi = std::min(lo + kMicroRows, count);
      while (hi < count && ranges[hi / kMicroRows] == range) hi = std::min(hi + kMicroRows, count);
      if (!range.empty()) work(Range{lo, hi}, range);
    }
  }
};

inline Band band_of(const RowMask* rows, int64_t count, Range tile, int64_t step) {
  Band band{true, count, tile.hi - tile.lo, {}, {}};
  for (Range& each : band.rows) each = {INT64_MAX, 0};
  for (int64_t lo = 0; lo < count; lo += kMicroRows) {
    const int64_t hi = std::min(lo + kMicroRows, count);
    Range seen{INT64_MAX, 0};
    for (int64_t row = lo; row < hi; ++row) {
      for (const Range& part : rows[row]) {
        const Range cut{std::max(part.lo, tile.lo), std::min(part.hi, tile.hi)};
        if (!cut.empty()) seen = {std::min(seen.lo, cut.lo), std::max(seen.hi, cut.hi)};
      }
      // Two intervals that make up the tile together are rare enough to pass for a gap.
      const auto covers = [&](Range part) { return part.lo <= tile.lo && tile.hi <= part.hi; };
      band.full &= covers(rows[row][0]) || covers(rows[row][1]);
    }
    if (seen.empty()) continue;
    const Range columns{(seen.lo - tile.lo) / step * step, round_up(seen.hi - tile.lo, step)};
    band.columns[lo / kMicroRows] = columns;
    for (int64_t at = columns.lo / kMicroRows; at * kMicroRows < columns.hi; ++at) {
      band.rows[at] = {std::min(band.rows[at].lo, lo), hi};
    }
  }
  return band;
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
