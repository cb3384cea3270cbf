// The two operators of ../operator.py.

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "boundary.h"
#include "problem.h"

namespace freshet {
namespace {

Tensor narrow_rows(const Tensor& x) { return x.stride(2) == 1 ? x : x.contiguous(); }

template <typename S>
Field<S> field_of(const Tensor& x) {
  return {x.const_data_ptr<S>(), x.stride(0), x.stride(1)};
}

// The tensors a problem points into, in an order that pointers can walk.
struct Arguments {
  Tensor q, k, v, q_offsets, kv_offsets, intervals;
  MaybeTensor position_bias, q_positions, time_bias, edges_ms, q_times_ms, kv_times_ms;
  bool softmax;
  double scale, divisor;

  void check() const {
    TORCH_CHECK(
        q.dim() == 3 && k.dim() == 3 && v.dim() == 3,
        "interval_attention refuses shape: each of q, k, v must be [rows, heads, width]");
    const auto dtype = q.scalar_type();
    const int64_t rows = q.size(0), columns = k.size(0), heads = q.size(1);
    const int64_t batch = std::max<int64_t>(q_offsets.numel(), 1) - 1;
    check_tensor("k", k, dtype, {columns, heads, q.size(2)});
    check_tensor("v", v, dtype, {columns, heads, v.size(2)});
    check_offsets("q_offsets", q_offsets, batch, rows);
    check_offsets("kv_offsets", kv_offsets, batch, columns);
    check_tensor("intervals", intervals, at::kInt, {rows, 4});
    check_intervals(intervals, q_offsets, kv_offsets);
    if (position_bias.has_value()) {
      check_table("position_bias", *position_bias, dtype);
      check_column("q_positions", q_positions, rows);
    }
    if (time_bias.has_value()) {
      check_table("time_bias", *time_bias, dtype);
      check_column("edges_ms", edges_ms, time_bias->numel() - 1);
      check_column("q_times_ms", q_times_ms, rows);
      check_column("kv_times_ms", kv_times_ms, columns);
    }
  }

  // Checked, contiguous where pointers walk, tables in what is computed in.
  Arguments ready() const {
    check();
    Arguments copy = *this;
    for (Tensor* x : {&copy.q, &copy.k, &copy.v}) *x = narrow_rows(*x);
    for (Tensor* x : {&copy.q_offsets, &copy.kv_offsets, &copy.intervals}) *x = x->contiguous();
    for (MaybeTensor* x : {&copy.position_bias, &copy.q_positions, &copy.time_bias, &copy.edges_ms,
                           &copy.q_times_ms, &copy.kv_times_ms}) {
      if (x->has_value()) *x = (*x)->contiguous();
    }
    for (MaybeTensor* x : {&copy.position_bias, &copy.time_bias}) {
      if (x->has_value()) *x = (*x)->to(at::toOpMathType(q.scalar_type()));
    }
    return copy;
  }
};

template <typename S, typename T = at::opmath_type<S>>
Problem<T, S> problem_of(const Arguments& given) {
  Problem<T, S> problem{};
  problem.q = field_of<S>(given.q);
  problem.k = field_of<S>(given.k);
  problem.v = field_of<S>(given.v);
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

#define FRESHET_DISPATCH(q, ...)                       \
  AT_DISPATCH_FLOATING_TYPES_AND2(                     \
      at::kBFloat16, at::kHalf, (q).scalar_type(), "interval_attention_cpu", __VA_ARGS__)

std::tuple<Tensor, Tensor> forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_offsets,
    const Tensor& kv_offsets, const Tensor& intervals, const MaybeTensor& position_bias,
    const MaybeTensor& q_positions, const MaybeTensor& time_bias, const MaybeTensor& edges_ms,
    const MaybeTensor& q_times_ms, const MaybeTensor& kv_times_ms, bool softmax, double scale,
    double divisor) {
  const Arguments arguments =
      Arguments{q, k, v, q_offsets, kv_offsets, intervals, position_bias, q_positions, time_bias,
                edges_ms, q_times_ms, kv_times_ms, softmax, scale, divisor}
          .ready();
  const auto computed_in = q.options().dtype(at::toOpMathType(q.scalar_type()));
  Tensor output = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
  Tensor log_sums = at::empty({softmax ? q.size(0) : 0, q.size(1)}, computed_in);
  FRESHET_DISPATCH(q, [&] {
    attend(
        problem_of<scalar_t>(arguments), output.mutable_data_ptr<scalar_t>(),
        log_sums.mutable_data_ptr<at::opmath_type<scalar_t>>());
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
          .ready();
  const auto computed_in = q.options().dtype(at::toOpMathType(q.scalar_type()));
  const auto num = [](const MaybeTensor& table) { return table.has_value() ? table->numel() : 0; };
  check_tensor("grad", grad, q.scalar_type(), {q.size(0), q.size(1), v.size(2)});
  check_tensor("output", output, q.scalar_type(), grad.sizes());
  check_tensor(
      "log_sums", log_sums, at::toOpMathType(q.scalar_type()), {softmax ? q.size(0) : 0, q.size(1)});
  Tensor q_grad = at::empty(q.sizes(), q.options());
  Tensor k_grad = at::empty(k.sizes(), k.options());
  Tensor v_grad = at::empty(v.sizes(), v.options());
  Tensor position_grad = at::zeros({num(position_bias)}, computed_in);
  Tensor time_grad = at::zeros({num(time_bias)}, computed_in);
  const Tensor rows = narrow_rows(grad), outputs = output.contiguous();
  const Tensor sums = log_sums.contiguous();
  FRESHET_DISPATCH(q, [&] {
    using computed_t = at::opmath_type<scalar_t>;
    attend_backward(
        problem_of<scalar_t>(arguments), field_of<scalar_t>(rows),
        outputs.const_data_ptr<scalar_t>(), sums.const_data_ptr<computed_t>(),
        {q_grad.mutable_data_ptr<scalar_t>(), k_grad.mutable_data_ptr<scalar_t>(),
         v_grad.mutable_data_ptr<scalar_t>(), position_grad.mutable_data_ptr<computed_t>(),
         time_grad.mutable_data_ptr<computed_t>()});
  });
  return {q_grad, k_grad, v_grad, position_grad.to(q.scalar_type()), time_grad.to(q.scalar_type())};
}

}  // namespace
}  // namespace freshet

TORCH_LIBRARY_IMPL(freshet_cpu, CPU, library) {
  library.impl("interval_attention", &freshet::forward);
  library.impl("interval_attention_backward", &freshet::backward);
}
