// What attention is asked for, as plain pointers; README.md next door has the formulas.
//
// T is what is computed in, S what queries, keys, values and outputs are stored as.
#pragma once

#include "pack.h"

namespace freshet {

// [rows, heads, width], the width without gaps.
template <typename S>
struct Field {
  const S* data = nullptr;
  int64_t row_stride = 0;
  int64_t head_stride = 0;
  Rows<S> rows(int64_t first, int64_t head) const {
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

template <typename T, typename S>
struct Problem {
  Field<S> q, k, v;
  const int64_t* q_offsets;
  const int64_t* kv_offsets;
  const int32_t* intervals;
  int64_t num_sequences, num_heads, qk_width, value_width;
  bool softmax;
  T scale, divisor;
  BiasTables<T> bias;
};

template <typename T, typename S>
struct Gradients {
  S* q;
  S* k;
  S* v;
  T* position;
  T* time;
};

// output [Tq,H,V]; log_sums [Tq,H], for softmax only.
template <typename T, typename S>
void attend(const Problem<T, S>& problem, S* output, T* log_sums);

// `output` and `log_sums` are those of `attend`, for softmax only.
template <typename T, typename S>
void attend_backward(
    const Problem<T, S>& problem, Field<S> grad, const S* output, const T* log_sums,
    const Gradients<T, S>& gradients);

}  // namespace freshet
