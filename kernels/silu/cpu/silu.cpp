// silu and its gradient over any number of numbers, with attention's exponential.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>

#include "kernels/interval_attention/cpu/vector.h"

namespace freshet {
namespace {

using at::Tensor;
constexpr int64_t kGrain = 16384;

template <typename T>
Vector<T> sigmoid(Vector<T> x) {
  return T(1) / (T(1) + exponential(-x));
}

// function(lane of a, lane of b) for all; the last, partial register goes through a buffer, so that a
// number's result does not depend on where it stands.
template <typename T, typename Function>
void map(const Tensor& a, const Tensor& b, Tensor& out, Function function) {
  const T *first = a.const_data_ptr<T>(), *second = b.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  at::parallel_for(0, a.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kLanes<T>) {
      const int64_t num = std::min<int64_t>(kLanes<T>, end - at);
      if (num == kLanes<T>) {
        store(to + at, function(load(first + at), load(second + at)));
        continue;
      }
      T left[kLanes<T>] = {}, right[kLanes<T>] = {}, result[kLanes<T>];
      std::copy_n(first + at, num, left);
      std::copy_n(second + at, num, right);
      store(result, function(load(left), load(right)));
      std::copy_n(result, num, to + at);
    }
  });
}

Tensor forward(const Tensor& given) {
  const Tensor x = given.contiguous();
  Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "silu_cpu", [&] {
    using V = Vector<scalar_t>;
    map<scalar_t>(x, x, out, [](V value, V) { return value * sigmoid<scalar_t>(value); });
  });
  return out;
}

Tensor backward(const Tensor& out_gradient, const Tensor& given) {
  const Tensor x = given.contiguous(), gradient = out_gradient.contiguous();
  Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "silu_cpu_backward", [&] {
    using V = Vector<scalar_t>;
    map<scalar_t>(x, gradient, out, [](V value, V slope) {
      const V s = sigmoid<scalar_t>(value);
      return slope * (s + value * s * (scalar_t(1) - s));
    });
  });
  return out;
}

}  // namespace
}  // namespace freshet

TORCH_LIBRARY_IMPL(freshet_cpu, CPU, library) {
  library.impl("silu", &freshet::forward);
  library.impl("silu_backward", &freshet::backward);
}
