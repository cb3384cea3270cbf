// Normalisation of rows, with weights by group and an optional gate, in one pass each way.
//
// Rows come sorted by group and are cut into tiles of one group. A tile sums its share of the
// weights' gradients, and a group adds its tiles in order: no bit depends on the number of threads.

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace freshet {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
constexpr int64_t kTileRows = 256;

struct Tile {
  int64_t group, first, last;
};

// A row as what is computed in: where it lies if it is that already, else in scratch.
template <typename S, typename T>
const T* read(const S* from, int64_t width, T* scratch) {
  if constexpr (std::is_same_v<S, T>) {
    return from;
  } else {
    std::copy_n(from, width, scratch);
    return scratch;
  }
}

// S is what rows are stored as, T what is computed in.
template <typename S, typename T = at::opmath_type<S>>
struct Rows {
  const S *x, *gate;         // without a gate null
  const T *weight, *bias;    // [groups, width]; an absent bias is zeros
  const int64_t* order;      // null where rows stand in order
  int64_t gate_row, gate_head, num_heads, head_width, width;
  T epsilon;
  bool rms;

  int64_t row(int64_t place) const { return order == nullptr ? place : order[place]; }

  const T* gate_of(int64_t row, T* scratch) const {
    const S* from = gate + row * gate_row;
    if (num_heads == 1) return read(from, width, scratch);
    for (int64_t head = 0; head < num_heads; ++head, from += gate_head) {
      std::copy_n(from, head_width, scratch + head * head_width);
    }
    return scratch;
  }
};

// Where a row of results is computed, for `write` to round if it is not stored so.
template <typename S, typename T>
T* target(S* to, T* scratch) {
  if constexpr (std::is_same_v<S, T>) {
    return to;
  } else {
    return scratch;
  }
}

template <typename S, typename T>
void write(S* to, const T* from, int64_t width) {
  if constexpr (!std::is_same_v<S, T>) {
    for (int64_t c = 0; c < width; ++c) to[c] = static_cast<S>(from[c]);
  }
}

template <typename T>
void statistics(const T* x, int64_t width, bool rms, T epsilon, T& mean, T& rstd) {
  T sum = 0;
  if (!rms) {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; ++c) sum += x[c];
  }
  const T inverse = T(1) / width, centre = sum * inverse;
  T squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < width; ++c) squares += (x[c] - centre) * (x[c] - centre);
  mean = centre;
  rstd = T(1) / std::sqrt(squares * inverse + epsilon);
}

template <typename S, typename T>
void normalise(const Rows<S, T>& rows, const Tile& tile, S* out, T* means, T* rstds) {
  const int64_t width = rows.width;
  const T* __restrict weight = rows.weight + tile.group * width;
  const T* __restrict bias = rows.bias + tile.group * width;
  std::vector<T> scratch(3 * width);
  for (int64_t place = tile.first; place < tile.last; ++place) {
    const int64_t row = rows.row(place);
    const T* __restrict x = read(rows.x + row * width, width, scratch.data());
    statistics(x, width, rows.rms, rows.epsilon, means[row], rstds[row]);
    const T mean = means[row], rstd = rstds[row];
    S* const to = out + row * width;
    T* __restrict y = target(to, scratch.data() + width);
    if (rows.gate == nullptr) {
      for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - mean) * rstd * weight[c] + bias[c];
    } else {
      const T* __restrict gate = rows.gate_of(row, scratch.data() + 2 * width);
      for (int64_t c = 0; c < width; ++c) {
        y[c] = ((x[c] - mean) * rstd * weight[c] + bias[c]) * gate[c];
      }
    }
    write(to, y, width);
  }
}

// The gradients of a row's gate and of what it multiplies, from that of the product.
template <typename T>
void split(
    const T* __restrict given, const T* __restrict normal, const T* __restrict weight,
    const T* __restrict bias, const T* __restrict gate, T* __restrict gate_gradient,
    T* __restrict ungated, int64_t width) {
  for (int64_t c = 0; c < width; ++c) {
    gate_gradient[c] = given[c] * (normal[c] * weight[c] + bias[c]);
    ungated[c] = given[c] * gate[c];
  }
}

// The gradient of x from that of the row behind weight and bias, and its share of both of theirs.
template <typename T>
void unnormalise(
    const T* __restrict given, const T* __restrict normal, const T* __restrict weight,
    T* __restrict x_gradient, T* __restrict weight_sum, T* __restrict bias_sum, int64_t width,
    bool rms, T rstd) {
  T sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t c = 0; c < width; ++c) {
    const T unit = given[c] * weight[c];
    sum += unit;
    product += unit * normal[c];
  }
  const T inverse = T(1) / width;
  const T centre = rms ? T(0) : sum * inverse, slope = product * inverse;
  for (int64_t c = 0; c < width; ++c) {
    x_gradient[c] = rstd * (given[c] * weight[c] - centre - normal[c] * slope);
    weight_sum[c] += given[c] * normal[c];
    bias_sum[c] += given[c];
  }
}

// `sums` [2, width] are the tile's of weight and bias.
template <typename S, typename T>
void differentiate(
    const Rows<S, T>& rows, const Tile& tile, const S* out_gradient, const T* means,
    const T* rstds, S* x_gradient, S* gate_gradient, T* sums) {
  const int64_t width = rows.width;
  const T* const weight = rows.weight + tile.group * width;
  const T* const bias = rows.bias + tile.group * width;
  std::vector<T> scratch(6 * width);
  T *wide = scratch.data(), *given = wide + width, *gate = given + width, *result = gate + width,
    *normal = result + width, *ungated = normal + width;
  for (int64_t place = tile.first; place < tile.last; ++place) {
    const int64_t row = rows.row(place);
    const T mean = means[row], rstd = rstds[row];
    const T* const x = read(rows.x + row * width, width, wide);
    for (int64_t c = 0; c < width; ++c) normal[c] = (x[c] - mean) * rstd;
    const T* slope = read(out_gradient + row * width, width, given);
    if (rows.gate != nullptr) {
      S* const to = gate_gradient + row * width;
      T* const found = target(to, result);
      split(slope, normal, weight, bias, rows.gate_of(row, gate), found, ungated, width);
      write(to, found, width);
      slope = ungated;
    }
    S* const to = x_gradient + row * width;
    T* const found = target(to, result);
    unnormalise(slope, normal, weight, found, sums, sums + width, width, rows.rms, rstd);
    write(to, found, width);
  }
}

// What the two operators are given, with tables as what is computed in.
struct Arguments {
  Tensor x;
  MaybeTensor gate;
  Tensor weight, bias;
  MaybeTensor order, offsets;
  bool rms;
  double epsilon;

  Arguments(
      const Tensor& x, const MaybeTensor& gate, const Tensor& weight, const MaybeTensor& bias,
      const MaybeTensor& order, const MaybeTensor& offsets, bool rms, double epsilon)
      : x(x), gate(gate), order(order), offsets(offsets), rms(rms), epsilon(epsilon) {
    this->weight = weight.to(computed_in()).contiguous();
    this->bias = bias.has_value() ? bias->to(computed_in()).contiguous()
                                  : at::zeros(weight.sizes(), this->weight.options());
  }

  at::ScalarType computed_in() const { return at::toOpMathType(x.scalar_type()); }
  Tensor statistic() const { return at::empty({x.size(0)}, weight.options()); }

  template <typename S, typename T = at::opmath_type<S>>
  Rows<S, T> rows() const {
    return {
        x.const_data_ptr<S>(), gate.has_value() ? gate->const_data_ptr<S>() : nullptr,
        weight.const_data_ptr<T>(), bias.const_data_ptr<T>(),
        order.has_value() ? order->const_data_ptr<int64_t>() : nullptr,
        gate.has_value() ? gate->stride(0) : 0, gate.has_value() ? gate->stride(1) : 0, x.size(1),
        x.size(2), x.size(1) * x.size(2), static_cast<T>(epsilon), rms};
  }

  std::vector<Tile> tiles() const {
    std::vector<Tile> found;
    const int64_t* edges = offsets.has_value() ? offsets->const_data_ptr<int64_t>() : nullptr;
    for (int64_t group = 0; group < weight.size(0); ++group) {
      const int64_t begin = edges == nullptr ? 0 : edges[group];
      const int64_t end = edges == nullptr ? x.size(0) : edges[group + 1];
      for (int64_t at = begin; at < end; at += kTileRows) {
        found.push_back({group, at, std::min(at + kTileRows, end)});
      }
    }
    return found;
  }
};

// work(place, tile), on a thread each where that is worth it.
template <typename Work>
void each_tile(const std::vector<Tile>& tiles, int64_t width, const Work& work) {
  const int64_t grain = std::max<int64_t>(1, 65536 / (kTileRows * width + 1));
  at::parallel_for(0, tiles.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) work(at, tiles[at]);
  });
}

#define FRESHET_DISPATCH(x, ...)     \
  AT_DISPATCH_FLOATING_TYPES_AND2(   \
      at::kBFloat16, at::kHalf, (x).scalar_type(), "grouped_norm_cpu", __VA_ARGS__)

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& x, const MaybeTensor& gate, const Tensor& weight, const MaybeTensor& bias,
    const MaybeTensor& order, const MaybeTensor& offsets, bool rms, double epsilon) {
  const Arguments given(x, gate, weight, bias, order, offsets, rms, epsilon);
  Tensor out = at::empty(x.sizes(), x.options());
  Tensor mean = given.statistic(), rstd = given.statistic();
  FRESHET_DISPATCH(x, [&] {
    using computed_t = at::opmath_type<scalar_t>;
    const auto rows = given.rows<scalar_t>();
    auto* to = out.mutable_data_ptr<scalar_t>();
    auto* means = mean.mutable_data_ptr<computed_t>();
    auto* rstds = rstd.mutable_data_ptr<computed_t>();
    each_tile(given.tiles(), rows.width, [&](int64_t, const Tile& tile) {
      normalise(rows, tile, to, means, rstds);
    });
  });
  return {out, mean, rstd};
}

// The tiles' sums, added in their order into [groups, 2, width]; zero for a group without rows.
template <typename T>
Tensor add_in_order(
    const std::vector<T>& sums, const std::vector<Tile>& tiles, const Tensor& like) {
  const int64_t size = 2 * like.size(1);
  Tensor total = at::zeros({like.size(0), 2, like.size(1)}, like.options().dtype(at::kDouble));
  double* const to = total.mutable_data_ptr<double>();
  for (size_t at = 0; at < tiles.size(); ++at) {
    double* const line = to + tiles[at].group * size;
    for (int64_t c = 0; c < size; ++c) line[c] += sums[at * size + c];
  }
  return total;
}

// Gradients of x, the gate, the weight and the bias; an absent one's is empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& out_gradient, const Tensor& mean, const Tensor& rstd, const Tensor& x,
    const MaybeTensor& gate, const Tensor& weight, const MaybeTensor& bias,
    const MaybeTensor& order, const MaybeTensor& offsets, bool rms, double epsilon) {
  const Arguments given(x, gate, weight, bias, order, offsets, rms, epsilon);
  const Tensor slope = out_gradient.contiguous(), none = at::empty({0}, x.options());
  const std::vector<Tile> tiles = given.tiles();
  Tensor x_gradient = at::empty(x.sizes(), x.options());
  Tensor gate_gradient = gate.has_value() ? at::empty(x.sizes(), x.options()) : none;
  Tensor sums;
  FRESHET_DISPATCH(x, [&] {
    using computed_t = at::opmath_type<scalar_t>;
    const auto rows = given.rows<scalar_t>();
    const auto* from = slope.const_data_ptr<scalar_t>();
    const auto* means = mean.const_data_ptr<computed_t>();
    const auto* rstds = rstd.const_data_ptr<computed_t>();
    auto* dx = x_gradient.mutable_data_ptr<scalar_t>();
    auto* dgate = gate_gradient.mutable_data_ptr<scalar_t>();
    std::vector<computed_t> partials(tiles.size() * 2 * rows.width);
    each_tile(tiles, rows.width, [&](int64_t at, const Tile& tile) {
      computed_t* const partial = partials.data() + at * 2 * rows.width;
      differentiate(rows, tile, from, means, rstds, dx, dgate, partial);
    });
    sums = add_in_order(partials, tiles, given.weight);
  });
  const auto dtype = x.scalar_type();
  return {
      x_gradient, gate_gradient, sums.select(1, 0).to(dtype).contiguous(),
      bias.has_value() ? sums.select(1, 1).to(dtype).contiguous() : at::empty({0}, x.options())};
}

}  // namespace
}  // namespace freshet

TORCH_LIBRARY_IMPL(freshet_cpu, CPU, library) {
  library.impl("grouped_norm", &freshet::forward);
  library.impl("grouped_norm_backward", &freshet::backward);
}
