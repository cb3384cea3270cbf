// The two operators that PyTorch sees. Arguments were checked by the door.

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "problem.h"

namespace freshet {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

Tensor narrow_rows(const Tensor& x) { return x.stride(2) == 1 ? x : x.contiguous(); }

template <typename T>
Field<T> field_of(const Tensor& x) {
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1)};
}

// The tensors a problem points into, in an order that pointers can walk.
struct Arguments {
  Tensor q, k, v, q_offsets, kv_offsets, intervals;
  MaybeTensor position_bias, q_positions, time_bias, edges_ms, q_times_ms, kv_times_ms;
  bool softmax;
  double scale, divisor;

  Arguments in_order() const {
    Arguments copy = *this;
    for (Tensor* x : {&copy.q, &copy.k, &copy.v}) *x = narrow_rows(*x);
    for (Tensor* x : {&copy.q_offsets, &copy.kv_offsets, &copy.intervals}) *x = x->contiguous();
    for (MaybeTensor* x : {&copy.position_bias, &copy.q_positions, &copy.time_bias, &copy.edges_ms,
                           &copy.q_times_ms, &copy.kv_times_ms}) {
      if (x->has_value()) *x = (*x)->contiguous();
    }
    return copy;
  }
};

template <typename T>
Problem<T> problem_of(const Arguments& given) {
  Problem<T> problem{};
  problem.q = field_of<T>(given.q);
  problem.k = field_of<T>(given.k);
  problem.v = field_of<T>(given.v);
  problem.q_offsets = given.q_offsets.const_data_ptr<int64_t>();
  problem.kv_offsets = given.kv_offsets.const_data_ptr<int64_t>();
  problem.intervals = given.intervals.const_data_ptr<int32_t>();
  problem.num_sequences = given.q_offsets.numel() - 1;
  problem.num_heads = given.q.size(1);
  problem.qk_width = given.q.size(2);
  problem.value_width = given.v.size(2);
  problem.softmax = given.softmax;
  problem.scale = static_cast<T>(given.scale);
  problem.divisor = static_cast<T>(given.divisor);
  if (given.position_bias.has_value()) {
    problem.bias.position = given.position_bias->const_data_ptr<T>();
    problem.bias.num_positions = given.position_bias->numel();
    problem.bias.q_positions = given.q_positions->const_data_ptr<int64_t>();
  }
  if (given.time_bias.has_value()) {
    problem.bias.time = given.time_bias->const_data_ptr<T>();
    problem.bias.num_buckets = given.time_bias->numel();
    problem.bias.edges_ms = given.edges_ms->const_data_ptr<int64_t>();
    problem.bias.q_times_ms = given.q_times_ms->const_data_ptr<int64_t>();
    problem.bias.kv_times_ms = given.kv_times_ms->const_data_ptr<int64_t>();
  }
  return problem;
}

std::tuple<Tensor, Tensor> forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_offsets,
    const Tensor& kv_offsets, const Tensor& intervals, const MaybeTensor& position_bias,
    const MaybeTensor& q_positions, const MaybeTensor& time_bias, const MaybeTensor& edges_ms,
    const MaybeTensor& q_times_ms, const MaybeTensor& kv_times_ms, bool softmax, double scale,
    double divisor) {
  const Arguments arguments =
      Arguments{q, k, v, q_offsets, kv_offsets, intervals, position_bias, q_positions, time_bias,
                edges_ms, q_times_ms, kv_times_ms, softmax, scale, divisor}
          .in_order();
  Tensor output = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
  Tensor log_sums = at::empty({softmax ? q.size(0) : 0, q.size(1)}, q.options());
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "interval_attention_cpu", [&] {
    attend<scalar_t>(
        problem_of<scalar_t>(arguments), output.mutable_data_ptr<scalar_t>(),
        log_sums.mutable_data_ptr<scalar_t>());
  });
  return {output, log_sums};
}

// Gradients of q, k, v and both tables; an absent table's is empty.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& output, const Tensor& log_sums, const Tensor& q,
    const Tensor& k, const Tensor& v, const Tensor& q_offsets, const Tensor& kv_offsets,
    const Tensor& intervals, const MaybeTensor& position_bias, const MaybeTensor& q_positions,
    const MaybeTensor& time_bias, const MaybeTensor& edges_ms, const MaybeTensor& q_times_ms,
    const MaybeTensor& kv_times_ms, bool softmax, double scale, double divisor) {
  const Arguments arguments =
      Arguments{q, k, v, q_offsets, kv_offsets, intervals, position_bias, q_positions, time_bias,
                edges_ms, q_times_ms, kv_times_ms, softmax, scale, divisor}
          .in_order();
  Tensor q_grad = at::empty(q.sizes(), q.options());
  Tensor k_grad = at::empty(k.sizes(), k.options());
  Tensor v_grad = at::empty(v.sizes(), v.options());
  Tensor position_grad =
      at::zeros({position_bias.has_value() ? position_bias->numel() : 0}, q.options());
  Tensor time_grad = at::zeros({time_bias.has_value() ? time_bias->numel() : 0}, q.options());
  const Tensor rows = narrow_rows(grad), sums = output.contiguous();
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), "interval_attention_cpu_backward", [&] {
    attend_backward<scalar_t>(
        problem_of<scalar_t>(arguments), field_of<scalar_t>(rows),
        sums.const_data_ptr<scalar_t>(), log_sums.const_data_ptr<scalar_t>(),
        {q_grad.mutable_data_ptr<scalar_t>(), k_grad.mutable_data_ptr<scalar_t>(),
         v_grad.mutable_data_ptr<scalar_t>(), position_grad.mutable_data_ptr<scalar_t>(),
         time_grad.mutable_data_ptr<scalar_t>()});
  });
  return {q_grad, k_grad, v_grad, position_grad, time_grad};
}

}  // namespace
}  // namespace freshet

// A macro, because schemas are literals.
#define FRESHET_ARGUMENTS                                                                         \
  "Tensor q, Tensor k, Tensor v, Tensor q_offsets, Tensor kv_offsets, Tensor intervals, "         \
  "Tensor? position_bias, Tensor? q_positions, Tensor? time_bias, Tensor? edges_ms, "             \
  "Tensor? q_times_ms, Tensor? kv_times_ms, bool softmax, float scale, float divisor"

TORCH_LIBRARY(freshet_cpu, library) {
  library.def("interval_attention(" FRESHET_ARGUMENTS ") -> (Tensor, Tensor)");
  library.def(
      "interval_attention_backward(Tensor grad, Tensor output, Tensor log_sums, " FRESHET_ARGUMENTS
      ") -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(freshet_cpu, CPU, library) {
  library.impl("interval_attention", &freshet::forward);
  library.impl("interval_attention_backward", &freshet::backward);
}
