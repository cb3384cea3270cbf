// What attention is asked for, as plain pointers; README.md next door has the formulas.
#pragma once

#include <vector>

#include "mask.h"
#include "product.h"

namespace freshet {

constexpr int64_t kRowBlock = 48;
constexpr int64_t kTileColumns = 96;
static_assert(kTileColumns % kPanel<float> == 0 && kRowBlock % kMicroRows == 0);

// [rows, heads, width], the width without gaps.
template <typename T>
struct Field {
  const T* data = nullptr;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
  Rows<T> rows(int64_t first, int64_t head) const {
    return {data + first * row_stride + head * head_stride, row_stride};
  }
};

// A null table is an absent bias.
template <typename T>
struct BiasTables {
  const T* position = nullptr;
  int64_t num_positions = 0;
  const int64_t* q_positions = nullptr;
  const T* time = nullptr;
  int64_t num_buckets = 0;
  const int64_t* edges_ms = nullptr;
  const int64_t* q_times_ms = nullptr;
  const int64_t* kv_times_ms = nullptr;
  bool any() const { return position != nullptr || time != nullptr; }
};

template <typename T>
struct Problem {
  Field<T> q, k, v;
  const int64_t* q_offsets;
  const int64_t* kv_offsets;
  const int32_t* intervals;
  int64_t num_sequences, num_heads, qk_width, value_width;
  bool softmax;
  T scale, divisor;
  BiasTables<T> bias;
};

template <typename T>
struct Gradients {
  T* q;
  T* k;
  T* v;
  T* position;
  T* time;
};

// output [Tq,H,V]; log_sums [Tq,H], for softmax only.
template <typename T>
void attend(const Problem<T>& problem, T* output, T* log_sums);

// `output` and `log_sums` are those of `attend`, for softmax only.
template <typename T>
void attend_backward(
    const Problem<T>& problem, Field<T> grad, const T* output, const T* log_sums,
    const Gradients<T>& gradients);

// A piece of work that one thread does from beginning to end: some rows and heads of a sequence.
struct Unit {
  int64_t sequence;
  Range rows;
  Range heads;
  double cost;
};

// Heads share their biases, so together they look them up once; but then one thread does them all,
// and of a long sequence the look-up is not worth that. Only the sequence decides, so that the order
// of sums does too.
template <typename T>
int64_t heads_together(const Problem<T>& problem, int64_t num_rows, int64_t num_columns) {
  constexpr double kLongPairs = 2048.0 * 2048.0;
  const double pairs = static_cast<double>(num_rows) * static_cast<double>(num_columns);
  return problem.bias.any() && pairs <= kLongPairs ? problem.num_heads : 1;
}

// Every sequence's rows in chunks of at most `chunk`, the heads in groups.
template <typename T>
std::vector<Unit> units_of(const Problem<T>& problem, int64_t chunk) {
  std::vector<Unit> units;
  for (int64_t sequence = 0; sequence < problem.num_sequences; ++sequence) {
    const int64_t rows = problem.q_offsets[sequence + 1] - problem.q_offsets[sequence];
    const int64_t columns = problem.kv_offsets[sequence + 1] - problem.kv_offsets[sequence];
    const int64_t together = heads_together(problem, rows, columns);
    for (int64_t row = 0; row < rows; row += chunk) {
      for (int64_t head = 0; head < problem.num_heads; head += together) {
        const int64_t num = std::min(chunk, rows - row);
        const Range heads{head, std::min(head + together, problem.num_heads)};
        const double cost = static_cast<double>(num * (heads.hi - heads.lo)) * (columns + 1.0);
        units.push_back({sequence, {row, row + num}, heads, cost});
      }
    }
  }
  return units;
}

}  // namespace freshet
