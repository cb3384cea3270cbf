// From logits to weights, and from the weights' gradient to the logits'.
#pragma once

#include <limits>

#include "mask.h"

namespace freshet {

template <typename T>
inline Vector<T> sigmoid(Vector<T> x) {
  return T(1) / (T(1) + exponential(-x));
}

// line = silu(line + bias) over `width` columns, a multiple of a panel; a null bias is none.
template <typename T>
inline void silu(T* line, const T* bias, int64_t width) {
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    Vector<T> x = load(line + c);
    if (bias != nullptr) x += load(bias + c);
    store(line + c, x * sigmoid<T>(x));
  }
}

// weight = silu(line + bias); gradient, that of the weight, becomes that of the logit.
template <typename T>
inline void silu_backward(T* line, const T* bias, T* gradient, int64_t width) {
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    Vector<T> x = load(line + c);
    if (bias != nullptr) x += load(bias + c);
    const Vector<T> s = sigmoid<T>(x), weight = x * s;
    store(line + c, weight);
    store(gradient + c, load(gradient + c) * (s + weight * (T(1) - s)));
  }
}

// line = exp(line + bias - log_sum); gradient as above, `mean` being the row's output times its
// gradient.
template <typename T>
inline void softmax_backward(
    T* line, const T* bias, T* gradient, int64_t width, T log_sum, T mean) {
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    Vector<T> x = load(line + c) - log_sum;
    if (bias != nullptr) x += load(bias + c);
    const Vector<T> weight = exponential(x);
    store(line + c, weight);
    store(gradient + c, weight * (load(gradient + c) - mean));
  }
}

// A row's running maximum and sum (online softmax, Milakov and Gimelshein 2018).
template <typename T>
struct RunningSum {
  T most = -std::numeric_limits<T>::infinity();
  T sum = 0;

  // line = exp(line + bias - most so far), 0 where unseen; what was summed before shrinks by the
  // factor returned.
  T add(T* line, const T* bias, const RowMask& row, Range tile) {
    const int64_t width = tile.hi - tile.lo;
    for (int64_t c = 0; bias != nullptr && c < width; ++c) line[c] += bias[c];
    fill_unseen(line, row, tile, -std::numeric_limits<T>::infinity());
    Vector<T> tops = Vector<T>{} + most;
    for (int64_t c = 0; c < width; c += kLanes<T>) {
      const Vector<T> x = load(line + c);
      tops = x > tops ? x : tops;
    }
    T top = most;
    for (int lane = 0; lane < kLanes<T>; ++lane) top = std::max(top, tops[lane]);
    // Nothing seen yet, or nothing but NaN, which the sum below has to carry on.
    const T base = top == -std::numeric_limits<T>::infinity() ? T(0) : top;
    for (int64_t c = 0; c < width; c += kLanes<T>) {
      store(line + c, exponential(load(line + c) - base));
    }
    fill_unseen(line, row, tile, T(0));
    const T factor = most == top ? T(1) : std::exp(most - top);
    sum *= factor;
    Vector<T> sums{};
    for (int64_t c = 0; c < width; c += kLanes<T>) sums += load(line + c);
    for (int lane = 0; lane < kLanes<T>; ++lane) sum += sums[lane];
    most = top;
    return factor;
  }
};

}  // namespace freshet
