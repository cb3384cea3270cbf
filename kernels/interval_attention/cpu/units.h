// How a batch is cut into units of work: by each sequence alone, so that the order of sums is too.
#pragma once

#include <vector>

#include "mask.h"
#include "problem.h"

namespace freshet {

// What one thread does from beginning to end: a part of a sequence's rows, for some heads.
struct Unit {
  int64_t sequence;
  Range rows;
  Range heads;
  // Units of the same sequence and heads form a group; `part` counts within it.
  int64_t group, part, num_parts;
  double cost;
};

// Every part packs the columns it attends anew: with fewer pairs that shows.
constexpr int64_t kPartPairs = 1 << 20;
constexpr int64_t kMostParts = 16;

// Heads share their biases, so together they look them up once; but then one thread holds the columns
// of them all.
template <typename T, typename S>
int64_t heads_together(const Problem<T, S>& problem, int64_t num_columns) {
  constexpr int64_t kColumnsTogether = 1 << 15;
  if (!problem.bias.any()) return 1;
  return std::clamp<int64_t>(
      kColumnsTogether / std::max<int64_t>(num_columns, 1), 1, problem.num_heads);
}

// A sequence's rows in parts of about as many pairs, cut between blocks.
inline std::vector<Range> parts_of(const int32_t* intervals, int64_t rows, int64_t heads) {
  std::vector<int64_t> pairs_until;
  int64_t pairs = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const RowMask mask = row_mask(intervals + 4 * row);
    pairs += mask[0].hi - mask[0].lo + mask[1].hi - mask[1].lo;
    if ((row + 1) % kRowBlock == 0 || row + 1 == rows) pairs_until.push_back(pairs);
  }
  const int64_t wanted = std::clamp<int64_t>(pairs * heads / kPartPairs, 1, kMostParts);
  std::vector<Range> parts;
  int64_t row = 0;
  for (int64_t part = 1; part <= wanted; ++part) {
    const int64_t share = pairs / wanted * part;
    const auto block = std::lower_bound(pairs_until.begin(), pairs_until.end(), share);
    const int64_t cut = (block - pairs_until.begin() + 1) * kRowBlock;
    const int64_t end = part == wanted ? rows : std::min(cut, rows);
    if (end > row) parts.push_back({row, end});
    row = std::max(row, end);
  }
  return parts;
}

// The parts of a group stand in their order and cost the same: a later one is never begun before an
// earlier one.
template <typename T, typename S>
std::vector<Unit> units_of(const Problem<T, S>& problem) {
  std::vector<Unit> units;
  int64_t group = 0;
  for (int64_t sequence = 0; sequence < problem.num_sequences; ++sequence) {
    const int64_t first = problem.q_offsets[sequence];
    const int64_t rows = problem.q_offsets[sequence + 1] - first;
    const int64_t columns = problem.kv_offsets[sequence + 1] - problem.kv_offsets[sequence];
    const int64_t together = heads_together(problem, columns);
    const std::vector<Range> parts = parts_of(problem.intervals + 4 * first, rows, together);
    const int64_t num_parts = parts.size();
    for (int64_t head = 0; head < problem.num_heads; head += together) {
      const Range heads{head, std::min(head + together, problem.num_heads)};
      const double pairs = static_cast<double>(rows) * (static_cast<double>(columns) + 1.0);
      const double cost = pairs * static_cast<double>(heads.hi - heads.lo);
      for (int64_t part = 0; part < num_parts; ++part) {
        units.push_back({sequence, parts[part], heads, group, part, num_parts, cost / num_parts});
      }
      ++group;
    }
  }
  return units;
}

}  // namespace freshet
