// The backward pass: the tiles of the forward pass again, their weights computed anew.

#include <utility>

#include "bias.h"
#include "score.h"

namespace freshet {
namespace {

// What one head of a unit holds: its columns as products read them, and the sums over its rows.
template <typename T>
struct Head {
  T* keys_across;    // [columns / panel, D, panel]
  T* keys;           // [D / panel, columns, panel]
  T* values_across;  // [columns / panel, V, panel]
  T* key_sums;       // [columns, D padded]
  T* value_sums;     // [columns, V padded]
  T* queries;        // [rows, D]
  T* query_panels;   // [D / panel, rows, panel]
  T* query_sums;     // [rows, D padded]
  T* grads;          // [rows, V]
  T* grad_panels;    // [V / panel, rows, panel]
  T means[kRowBlock];
  T log_sums[kRowBlock];
};

template <typename T>
class Backward {
 public:
  void run(
      const Problem<T>& problem, const Unit& unit, Field<T> grad, const T* output,
      const T* log_sums, const Gradients<T>& gradients) {
    problem_ = &problem;
    unit_ = &unit;
    first_row_ = problem.q_offsets[unit.sequence];
    first_column_ = problem.kv_offsets[unit.sequence];
    used_ = problem.kv_offsets[unit.sequence + 1] - first_column_;
    columns_ = round_up(used_, kPanel<T>);
    lay_out();
    for (size_t index = 0; index < heads_.size(); ++index) pack_columns(index);
    if (problem.bias.any()) bias_.start(problem, unit, true);
    for (int64_t row = unit.rows.lo; row < unit.rows.hi; row += kRowBlock) {
      const Range rows{row, std::min(row + kRowBlock, unit.rows.hi)};
      for (size_t index = 0; index < heads_.size(); ++index) {
        pack_block(index, rows, grad, output, log_sums);
      }
      run_block(rows, gradients);
    }
    write_columns(gradients);
  }

  void finish(std::vector<double>& position, std::vector<double>& time) const {
    bias_.finish(position, time);
  }

 private:
  int64_t qk_padded() const { return round_up(problem_->qk_width, kPanel<T>); }
  int64_t value_padded() const { return round_up(problem_->value_width, kPanel<T>); }

  // One piece of memory for all heads.
  void lay_out() {
    const int64_t d = problem_->qk_width, v = problem_->value_width;
    const int64_t dp = qk_padded(), vp = value_padded();
    const int64_t size = columns_ * (d + v + 2 * dp + vp) + kRowBlock * (d + v + 2 * dp + vp);
    heads_.resize(unit_->heads.hi - unit_->heads.lo);
    T* at = memory_.get(size * heads_.size());
    const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
    for (Head<T>& head : heads_) {
      head.keys_across = take(columns_ * d);
      head.keys = take(columns_ * dp);
      head.values_across = take(columns_ * v);
      head.key_sums = take(columns_ * dp);
      head.value_sums = take(columns_ * vp);
      head.queries = take(kRowBlock * d);
      head.query_panels = take(kRowBlock * dp);
      head.query_sums = take(kRowBlock * dp);
      head.grads = take(kRowBlock * v);
      head.grad_panels = take(kRowBlock * vp);
    }
  }

  void pack_columns(size_t index) {
    const Head<T>& head = heads_[index];
    const Rows<T> keys = problem_->k.rows(first_column_, unit_->heads.lo + index);
    const Rows<T> values = problem_->v.rows(first_column_, unit_->heads.lo + index);
    pack_transposed(head.keys_across, keys, 0, used_, problem_->qk_width);
    pack_transposed(head.values_across, values, 0, used_, problem_->value_width);
    pack_panels(head.keys, keys, 0, used_, columns_, problem_->qk_width, T(1));
    zero_panels(head.keys, used_, columns_, columns_, problem_->qk_width);
    std::fill_n(head.key_sums, columns_ * qk_padded(), T(0));
    std::fill_n(head.value_sums, columns_ * value_padded(), T(0));
  }

  // Queries scaled and gradients divided once, so that products need no factor.
  void pack_block(size_t index, Range rows, Field<T> grad, const T* output, const T* log_sums) {
    Head<T>& head = heads_[index];
    const int64_t count = rows.hi - rows.lo, row = first_row_ + rows.lo;
    const int64_t d = problem_->qk_width, v = problem_->value_width;
    const T factor = T(1) / problem_->divisor;
    const Rows<T> queries = problem_->q.rows(row, unit_->heads.lo + index);
    const Rows<T> grads = grad.rows(row, unit_->heads.lo + index);
    pack_rows(head.queries, queries, count, d, problem_->scale);
    pack_panels(head.query_panels, queries, 0, count, kRowBlock, d, problem_->scale);
    pack_rows(head.grads, grads, count, v, factor);
    pack_panels(head.grad_panels, grads, 0, count, kRowBlock, v, factor);
    std::fill_n(head.query_sums, kRowBlock * qk_padded(), T(0));
    for (int64_t at = 0; problem_->softmax && at < count; ++at) {
      const int64_t place = (row + at) * problem_->num_heads + unit_->heads.lo + index;
      head.log_sums[at] = log_sums[place];
      head.means[at] = 0;
      for (int64_t i = 0; i < v; ++i) head.means[at] += head.grads[at * v + i] * output[place * v + i];
    }
  }

  void run_block(Range rows, const Gradients<T>& gradients) {
    const int64_t count = rows.hi - rows.lo;
    masks_.clear();
    for (int64_t row = rows.lo; row < rows.hi; ++row) {
      masks_.push_back(row_mask(problem_->intervals + 4 * (first_row_ + row)));
    }
    tiles_of(tiles_, masks_.data(), count, kPanel<T>, kTileColumns);
    for (const Range& tile : tiles_) {
      if (problem_->bias.any()) {
        bias_.look_up(rows, tile, bias_tile_);
        std::fill_n(bias_grad_, count * kTileColumns, T(0));
      }
      for (const Head<T>& head : heads_) {
        weigh(head, count, tile);
        add_up(head, count, tile);
      }
      if (problem_->bias.any()) bias_.add(rows, tile, bias_grad_);
    }
    for (size_t index = 0; index < heads_.size(); ++index) {
      const Rows<T> sums{heads_[index].query_sums, qk_padded()};
      write(gradients.q, sums, first_row_ + rows.lo, count, index, problem_->qk_width, problem_->scale);
    }
  }

  // The tile's weights, and the gradient of its logits.
  void weigh(const Head<T>& head, int64_t count, Range tile) {
    const int64_t d = problem_->qk_width, v = problem_->value_width, columns = tile.hi - tile.lo;
    std::fill_n(weights_, count * kTileColumns, T(0));
    std::fill_n(logit_grad_, count * kTileColumns, T(0));
    add_product<T>(
        count, columns / kPanel<T>, d, {head.queries, d, 1},
        {head.keys_across + tile.lo * d, d * kPanel<T>}, {weights_, kTileColumns});
    add_product<T>(
        count, columns / kPanel<T>, v, {head.grads, v, 1},
        {head.values_across + tile.lo * v, v * kPanel<T>}, {logit_grad_, kTileColumns});
    for (int64_t row = 0; row < count; ++row) {
      T* const line = weights_ + row * kTileColumns;
      T* const grad = logit_grad_ + row * kTileColumns;
      const T* const bias = problem_->bias.any() ? bias_tile_ + row * kTileColumns : nullptr;
      if (problem_->softmax) {
        softmax_backward(line, bias, grad, columns, head.log_sums[row], head.means[row]);
      } else {
        silu_backward(line, bias, grad, columns);
      }
      fill_unseen(line, masks_[row], tile, T(0));
      fill_unseen(grad, masks_[row], tile, T(0));
      T* const sum = bias_grad_ + row * kTileColumns;
      for (int64_t c = 0; bias != nullptr && c < columns; ++c) sum[c] += grad[c];
    }
  }

  // dV += P^T dO, dK += dS^T Q, dQ += dS K.
  void add_up(const Head<T>& head, int64_t count, Range tile) {
    const int64_t dp = qk_padded(), vp = value_padded(), columns = tile.hi - tile.lo;
    add_product<T>(
        columns, vp / kPanel<T>, count, {weights_, 1, kTileColumns},
        {head.grad_panels, kRowBlock * kPanel<T>}, {head.value_sums + tile.lo * vp, vp});
    add_product<T>(
        columns, dp / kPanel<T>, count, {logit_grad_, 1, kTileColumns},
        {head.query_panels, kRowBlock * kPanel<T>}, {head.key_sums + tile.lo * dp, dp});
    add_product<T>(
        count, dp / kPanel<T>, columns, {logit_grad_, kTileColumns, 1},
        {head.keys + tile.lo * kPanel<T>, columns_ * kPanel<T>}, {head.query_sums, dp});
  }

  void write_columns(const Gradients<T>& gradients) const {
    for (size_t index = 0; index < heads_.size(); ++index) {
      const Rows<T> keys{heads_[index].key_sums, qk_padded()};
      const Rows<T> values{heads_[index].value_sums, value_padded()};
      write(gradients.k, keys, first_column_, used_, index, problem_->qk_width, T(1));
      write(gradients.v, values, first_column_, used_, index, problem_->value_width, T(1));
    }
  }

  void write(
      T* to, Rows<T> from, int64_t first, int64_t count, size_t index, int64_t width,
      T factor) const {
    for (int64_t row = 0; row < count; ++row) {
      const int64_t place = (first + row) * problem_->num_heads + unit_->heads.lo + index;
      for (int64_t i = 0; i < width; ++i) {
        to[place * width + i] = factor * from.data[row * from.stride + i];
      }
    }
  }

  const Problem<T>* problem_ = nullptr;
  const Unit* unit_ = nullptr;
  int64_t first_row_ = 0, first_column_ = 0, used_ = 0, columns_ = 0;
  Buffer<T> memory_;
  std::vector<Head<T>> heads_;
  std::vector<RowMask> masks_;
  std::vector<Range> tiles_;
  UnitBias<T> bias_;
  T weights_[kRowBlock * kTileColumns];
  T logit_grad_[kRowBlock * kTileColumns];
  T bias_tile_[kRowBlock * kTileColumns];
  T bias_grad_[kRowBlock * kTileColumns];
};

// Columns of a sequence without rows: nobody attends them and no unit writes their gradient.
template <typename T>
void clear_unattended(const Problem<T>& problem, const Gradients<T>& gradients) {
  for (int64_t sequence = 0; sequence < problem.num_sequences; ++sequence) {
    if (problem.q_offsets[sequence + 1] > problem.q_offsets[sequence]) continue;
    const int64_t first = problem.kv_offsets[sequence] * problem.num_heads;
    const int64_t count = problem.kv_offsets[sequence + 1] * problem.num_heads - first;
    std::fill_n(gradients.k + first * problem.qk_width, count * problem.qk_width, T(0));
    std::fill_n(gradients.v + first * problem.value_width, count * problem.value_width, T(0));
  }
}

// The units' sums, added in the units' order whoever finished first.
template <typename T>
void add_in_order(const std::vector<std::vector<double>>& parts, T* total, int64_t size) {
  std::vector<double> sums(size, 0.0);
  for (const std::vector<double>& part : parts) {
    for (size_t at = 0; at < part.size(); ++at) sums[at] += part[at];
  }
  std::copy(sums.begin(), sums.end(), total);
}

}  // namespace

template <typename T>
void attend_backward(
    const Problem<T>& problem, Field<T> grad, const T* output, const T* log_sums,
    const Gradients<T>& gradients) {
  // A column's gradient is a sum over rows, so a unit has all rows of its sequence.
  const std::vector<Unit> units = units_of(problem, INT64_MAX);
  const bool biased = problem.bias.any();
  clear_unattended(problem, gradients);
  std::vector<std::vector<double>> position(units.size()), time(units.size());
  run_units<Backward<T>>(units, [&](int64_t index, Backward<T>& backward) {
    backward.run(problem, units[index], grad, output, log_sums, gradients);
    if (biased) backward.finish(position[index], time[index]);
  });
  if (problem.bias.position != nullptr) {
    add_in_order(position, gradients.position, problem.bias.num_positions);
  }
  if (problem.bias.time != nullptr) add_in_order(time, gradients.time, problem.bias.num_buckets);
}

template void attend_backward<float>(
    const Problem<float>&, Field<float>, const float*, const float*, const Gradients<float>&);
template void attend_backward<double>(
    const Problem<double>&, Field<double>, const double*, const double*, const Gradients<double>&);

}  // namespace freshet
