// Normalisation of rows, with weights by group and an optional gate, in one pass each way.
//
// Rows come sorted by group and are cut into tiles of one group. A tile sums its share of the weights'
// gradients, and a group adds its tiles in order: no bit depends on the number of threads.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

namespace freshet {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
constexpr int64_t kTileRows = 256;

struct Tile {
  int64_t group, first, last;
};

template <typename T>
struct Rows {
  const T *x, *gate, *weight, *bias;
  const int64_t* order;
  int64_t gate_row, gate_head, num_heads, head_width, width;
  T epsilon;
  bool rms;

  int64_t row(int64_t place) const { return order == nullptr ? place : order[place]; }
  const T* bias_of(int64_t group, int64_t head) const {
    return bias == nullptr ? nullptr : bias + group * width + head * head_width;
  }
  const T* gate_of(int64_t row, int64_t head) const {
    return gate == nullptr ? nullptr : gate + row * gate_row + head * gate_head;
  }
};

template <typename T>
const T* pointer(const MaybeTensor& x) {
  return x.has_value() ? x->const_data_ptr<T>() : nullptr;
}

template <typename T>
Rows<T> rows_of(
    const Tensor& x, const MaybeTensor& gate, const Tensor& weight, const MaybeTensor& bias,
    const MaybeTensor& order, bool rms, double epsilon) {
  return {
      x.const_data_ptr<T>(), pointer<T>(gate), weight.const_data_ptr<T>(), pointer<T>(bias),
      pointer<int64_t>(order), gate.has_value() ? gate->stride(0) : 0,
      gate.has_value() ? gate->stride(1) : 0, x.size(1), x.size(2), x.size(1) * x.size(2),
      static_cast<T>(epsilon), rms};
}

std::vector<Tile> tiles_of(const MaybeTensor& offsets, int64_t num_rows, int64_t num_groups) {
  std::vector<Tile> tiles;
  const int64_t* edges = pointer<int64_t>(offsets);
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t begin = edges == nullptr ? 0 : edges[group];
    const int64_t end = edges == nullptr ? num_rows : edges[group + 1];
    for (int64_t at = begin; at < end; at += kTileRows) {
      tiles.push_back({group, at, std::min(at + kTileRows, end)});
    }
  }
  return tiles;
}

template <typename T>
void statistics(const T* x, int64_t width, bool rms, T epsilon, T& mean, T& rstd) {
  T sum = 0;
  if (!rms) {
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < width; ++c) sum += x[c];
  }
  mean = sum / width;
  T squares = 0;
  const T centre = mean;
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < width; ++c) squares += (x[c] - centre) * (x[c] - centre);
  rstd = T(1) / std::sqrt(squares / width + epsilon);
}

// y = ((x - mean) * rstd * weight + bias) * gate over one head; a null bias or gate is none.
template <typename T>
void finish(
    const T* __restrict x, const T* __restrict weight, const T* __restrict bias,
    const T* __restrict gate, T* __restrict y, int64_t width, T mean, T rstd) {
  if (bias != nullptr && gate != nullptr) {
    for (int64_t c = 0; c < width; ++c) {
      y[c] = ((x[c] - mean) * rstd * weight[c] + bias[c]) * gate[c];
    }
    return;
  }
  for (int64_t c = 0; c < width; ++c) y[c] = (x[c] - mean) * rstd * weight[c];
  for (int64_t c = 0; bias != nullptr && c < width; ++c) y[c] += bias[c];
  for (int64_t c = 0; gate != nullptr && c < width; ++c) y[c] *= gate[c];
}

template <typename T>
void normalise(const Rows<T>& rows, const Tile& tile, T* out, T* means, T* rstds) {
  const T* weight = rows.weight + tile.group * rows.width;
  for (int64_t place = tile.first; place < tile.last; ++place) {
    const int64_t row = rows.row(place);
    const T* x = rows.x + row * rows.width;
    statistics(x, rows.width, rows.rms, rows.epsilon, means[row], rstds[row]);
    for (int64_t head = 0; head < rows.num_heads; ++head) {
      const int64_t at = head * rows.head_width;
      finish(
          x + at, weight + at, rows.bias_of(tile.group, head), rows.gate_of(row, head),
          out + row * rows.width + at, rows.head_width, means[row], rstds[row]);
    }
  }
}

// The gradients of the gate and of what it multiplies, over one head, from that of the product.
template <typename T>
void split(
    const T* __restrict given, const T* __restrict normal, const T* __restrict weight,
    const T* __restrict bias, const T* __restrict gate, T* __restrict gate_gradient,
    T* __restrict dy, int64_t width) {
  if (bias == nullptr) {
    for (int64_t c = 0; c < width; ++c) gate_gradient[c] = given[c] * normal[c] * weight[c];
  } else {
    for (int64_t c = 0; c < width; ++c) {
      gate_gradient[c] = given[c] * (normal[c] * weight[c] + bias[c]);
    }
  }
  for (int64_t c = 0; c < width; ++c) dy[c] = given[c] * gate[c];
}

// The gradient of x from that of the row behind weight and bias, and its share of both of theirs.
template <typename T>
void unnormalise(
    const T* __restrict dy, const T* __restrict normal, const T* __restrict weight,
    T* __restrict x_gradient, T* __restrict weight_sum, T* __restrict bias_sum, int64_t width,
    bool rms, T rstd) {
  T sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
  for (int64_t c = 0; c < width; ++c) {
    const T unit = dy[c] * weight[c];
    sum += unit;
    product += unit * normal[c];
  }
  const T centre = rms ? T(0) : sum / width, slope = product / width;
  for (int64_t c = 0; c < width; ++c) {
    x_gradient[c] = rstd * (dy[c] * weight[c] - centre - normal[c] * slope);
    weight_sum[c] += dy[c] * normal[c];
    bias_sum[c] += dy[c];
  }
}

template <typename T>
void differentiate(
    const Rows<T>& rows, const Tile& tile, const T* out_gradient, const T* means, const T* rstds,
    T* x_gradient, T* gate_gradient, T* partial) {
  const int64_t width = rows.width;
  const T* weight = rows.weight + tile.group * width;
  std::vector<T> scratch(2 * width);
  T *normal = scratch.data(), *dy = normal + width;
  for (int64_t place = tile.first; place < tile.last; ++place) {
    const int64_t row = rows.row(place);
    const T *x = rows.x + row * width, *given = out_gradient + row * width;
    const T mean = means[row], rstd = rstds[row];
    for (int64_t c = 0; c < width; ++c) normal[c] = (x[c] - mean) * rstd;
    for (int64_t head = 0; rows.gate != nullptr && head < rows.num_heads; ++head) {
      const int64_t at = head * rows.head_width;
      split(
          given + at, normal + at, weight + at, rows.bias_of(tile.group, head),
          rows.gate_of(row, head), gate_gradient + row * width + at, dy + at, rows.head_width);
    }
    unnormalise(
        rows.gate == nullptr ? given : dy, normal, weight, x_gradient + row * width, partial,
        partial + width, width, rows.rms, rstd);
  }
}

// Tiles are worth a thread each from about this many numbers on.
int64_t grain(int64_t width) { return std::max<int64_t>(1, 65536 / (kTileRows * width + 1)); }

Tensor statistic(const Tensor& x) { return at::empty({x.size(0)}, x.options()); }

std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& x, const MaybeTensor& gate, const Tensor& weight, const MaybeTensor& bias,
    const MaybeTensor& order, const MaybeTensor& offsets, bool rms, double epsilon) {
  Tensor out = at::empty(x.sizes(), x.options()), mean = statistic(x), rstd = statistic(x);
  const std::vector<Tile> tiles = tiles_of(offsets, x.size(0), weight.size(0));
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "grouped_norm_cpu", [&] {
    const auto rows = rows_of<scalar_t>(x, gate, weight, bias, order, rms, epsilon);
    scalar_t *to = out.mutable_data_ptr<scalar_t>(), *means = mean.mutable_data_ptr<scalar_t>(),
             *rstds = rstd.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, tiles.size(), grain(rows.width), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) normalise(rows, tiles[at], to, means, rstds);
    });
  });
  return {out, mean, rstd};
}

// Gradients of x, the gate, the weight and the bias; an absent one's is empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& out_gradient, const Tensor& mean, const Tensor& rstd, const Tensor& x,
    const MaybeTensor& gate, const Tensor& weight, const MaybeTensor& bias,
    const MaybeTensor& order, const MaybeTensor& offsets, bool rms, double epsilon) {
  const Tensor given = out_gradient.contiguous();
  const std::vector<Tile> tiles = tiles_of(offsets, x.size(0), weight.size(0));
  Tensor x_gradient = at::empty(x.sizes(), x.options());
  Tensor gate_gradient =
      gate.has_value() ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  Tensor weight_gradient = at::zeros(weight.sizes(), x.options());
  Tensor bias_gradient =
      bias.has_value() ? at::zeros(weight.sizes(), x.options()) : at::empty({0}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "grouped_norm_cpu_backward", [&] {
    const auto rows = rows_of<scalar_t>(x, gate, weight, bias, order, rms, epsilon);
    const int64_t width = rows.width;
    const scalar_t *from = given.const_data_ptr<scalar_t>(),
                   *means = mean.const_data_ptr<scalar_t>(),
                   *rstds = rstd.const_data_ptr<scalar_t>();
    scalar_t *dx = x_gradient.mutable_data_ptr<scalar_t>(),
             *dgate = gate_gradient.mutable_data_ptr<scalar_t>();
    std::vector<scalar_t> partials(tiles.size() * 2 * width);
    at::parallel_for(0, tiles.size(), grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        scalar_t* partial = partials.data() + at * 2 * width;
        differentiate(rows, tiles[at], from, means, rstds, dx, dgate, partial);
      }
    });
    std::vector<double> sums(2 * width);
    for (size_t at = 0; at < tiles.size(); ++at) {
      const scalar_t* partial = partials.data() + at * 2 * width;
      for (int64_t c = 0; c < 2 * width; ++c) sums[c] += partial[c];
      if (at + 1 < tiles.size() && tiles[at + 1].group == tiles[at].group) continue;
      const int64_t to = tiles[at].group * width;
      std::copy_n(sums.data(), width, weight_gradient.mutable_data_ptr<scalar_t>() + to);
      if (bias.has_value()) {
        std::copy_n(sums.data() + width, width, bias_gradient.mutable_data_ptr<scalar_t>() + to);
      }
      std::fill(sums.begin(), sums.end(), 0.0);
    }
  });
  return {x_gradient, gate_gradient, weight_gradient, bias_gradient};
}

}  // namespace
}  // namespace freshet

TORCH_LIBRARY_IMPL(freshet_cpu, CPU, library) {
  library.impl("grouped_norm", &freshet::forward);
  library.impl("grouped_norm_backward", &freshet::backward);
}
