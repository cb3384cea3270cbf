// The backward pass: the tiles of the forward pass again, their weights computed anew.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <utility>

#include "bias.h"
#include "column_sums.h"
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

// What the forward pass left, and the gradient that came back.
template <typename T, typename S>
struct Returned {
  Field<S> grad;
  const S* output;
  const T* log_sums;
};

template <typename T, typename S>
class Backward {
 public:
  // `together` is where the parts of the unit's group add up; not used where there is but one.
  void run(
      const Problem<T, S>& problem, const Unit& unit, const Returned<T, S>& returned,
      const Gradients<T, S>& gradients, ColumnSums<T>& together) {
    start(problem, unit);
    for (int64_t row = unit.rows.lo; row < unit.rows.hi; row += kRowBlock) {
      const Range rows{row, std::min(row + kRowBlock, unit.rows.hi)};
      for (size_t index = 0; index < heads_.size(); ++index) pack_block(index, rows, returned);
      run_block(rows, gradients);
    }
    if (unit.num_parts == 1) {
      for (size_t index = 0; index < heads_.size(); ++index) {
        write_columns(gradients, index, heads_[index].key_sums, heads_[index].value_sums);
      }
    } else {
      together.wait_for_turn(unit.part);
      add_columns(gradients, together);
    }
  }

  void finish(std::vector<double>& position, std::vector<double>& time) const {
    bias_.finish(position, time);
  }

 private:
  int64_t qk_padded() const { return round_up(problem_->qk_width, kPanel<T>); }
  int64_t value_padded() const { return round_up(problem_->value_width, kPanel<T>); }

  void start(const Problem<T, S>& problem, const Unit& unit) {
    problem_ = &problem;
    unit_ = &unit;
    first_row_ = problem.q_offsets[unit.sequence];
    first_column_ = problem.kv_offsets[unit.sequence];
    used_ = problem.kv_offsets[unit.sequence + 1] - first_column_;
    columns_ = round_up(used_, kPanel<T>);
    masks_of(masks_, problem.intervals + 4 * first_row_, unit.rows);
    cover_ = cover(masks_.data(), masks_.size(), kPanel<T>);
    lay_out();
    for (size_t index = 0; index < heads_.size(); ++index) {
      for (const Range& range : cover_) pack_columns(index, range);
      if (unit.num_parts == 1) {
        zero_sums(index, {0, columns_});
      } else {
        for (const Range& range : cover_) zero_sums(index, range);
      }
    }
    if (problem.bias.any()) bias_.start(problem, unit, true);
  }

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

  void pack_columns(size_t index, Range range) {
    const Head<T>& head = heads_[index];
    const int64_t last = std::min(range.hi, used_);
    const Rows<S> keys = problem_->k.rows(first_column_, unit_->heads.lo + index);
    const Rows<S> values = problem_->v.rows(first_column_, unit_->heads.lo + index);
    pack_transposed(head.keys_across, keys, range.lo, last, problem_->qk_width);
    pack_transposed(head.values_across, values, range.lo, last, problem_->value_width);
    pack_panels(head.keys, keys, range.lo, last, columns_, problem_->qk_width, T(1));
    zero_panels(head.keys, last, range.hi, columns_, problem_->qk_width);
  }

  void zero_sums(size_t index, Range range) {
    const int64_t count = range.hi - range.lo, dp = qk_padded(), vp = value_padded();
    std::fill_n(heads_[index].key_sums + range.lo * dp, count * dp, T(0));
    std::fill_n(heads_[index].value_sums + range.lo * vp, count * vp, T(0));
  }

  // Queries scaled and gradients divided once, so that products need no factor.
  void pack_block(size_t index, Range rows, const Returned<T, S>& returned) {
    Head<T>& head = heads_[index];
    const int64_t count = rows.hi - rows.lo, row = first_row_ + rows.lo;
    const int64_t next = std::min(2 * kRowBlock, unit_->rows.hi - rows.lo);
    const int64_t d = problem_->qk_width, v = problem_->value_width;
    const T factor = T(1) / problem_->divisor;
    const Rows<S> queries = problem_->q.rows(row, unit_->heads.lo + index);
    const Rows<S> grads = returned.grad.rows(row, unit_->heads.lo + index);
    pack_rows(head.queries, queries, count, d, problem_->scale);
    pack_panels(head.query_panels, queries, 0, count, kRowBlock, d, problem_->scale);
    pack_rows(head.grads, grads, count, v, factor);
    pack_panels(head.grad_panels, grads, 0, count, kRowBlock, v, factor);
    prefetch(queries, count, next, d);
    prefetch(grads, count, next, v);
    std::fill_n(head.query_sums, kRowBlock * qk_padded(), T(0));
    for (int64_t at = 0; problem_->softmax && at < count; ++at) {
      const int64_t place = (row + at) * problem_->num_heads + unit_->heads.lo + index;
      const S* const output = returned.output + place * v;
      head.log_sums[at] = returned.log_sums[place];
      // As products sum, so that a row of one column cancels to nothing.
      T mean = 0;
      for (int64_t i = 0; i < v; ++i) {
        mean = std::fma(head.grads[at * v + i], static_cast<T>(output[i]), mean);
      }
      head.means[at] = mean;
    }
  }

  void run_block(Range rows, const Gradients<T, S>& gradients) {
    const int64_t count = rows.hi - rows.lo;
    const RowMask* const masks = masks_.data() + (rows.lo - unit_->rows.lo);
    tiles_of(tiles_, masks, count, kPanel<T>, kTileColumns);
    for (const Range& tile : tiles_) {
      const Band band = band_of(masks, count, tile, kPanel<T>);
      if (problem_->bias.any()) {
        bias_.look_up(rows.lo, tile.lo, band, bias_tile_);
        std::fill_n(bias_grad_, count * kTileColumns, T(0));
      }
      for (const Head<T>& head : heads_) {
        weigh(head, masks, tile.lo, band);
        add_up(head, tile.lo, band);
      }
      if (problem_->bias.any()) bias_.add(rows.lo, tile.lo, band, bias_grad_);
    }
    for (size_t index = 0; index < heads_.size(); ++index) {
      const T* const sums = heads_[index].query_sums;
      const int64_t first = first_row_ + rows.lo;
      write(gradients.q, sums, qk_padded(), first, count, index, problem_->qk_width, problem_->scale);
    }
  }

  // The tile's weights, and the gradient of its logits.
  void weigh(const Head<T>& head, const RowMask* masks, int64_t first_column, const Band& band) {
    const int64_t d = problem_->qk_width, v = problem_->value_width;
    if (!band.full) {
      std::fill_n(weights_, band.num_rows * kTileColumns, T(0));
      std::fill_n(logit_grad_, band.num_rows * kTileColumns, T(0));
    }
    band.each_rows([&](Range rows, Range columns) {
      const Range seen{first_column + columns.lo, first_column + columns.hi};
      const int64_t corner = rows.lo * kTileColumns + columns.lo;
      const int64_t panels = (columns.hi - columns.lo) / kPanel<T>;
      product<T, Start::kZero>(
          rows.hi - rows.lo, panels, d, {head.queries + rows.lo * d, d, 1},
          {head.keys_across + seen.lo * d, d * kPanel<T>}, {weights_ + corner, kTileColumns});
      product<T, Start::kZero>(
          rows.hi - rows.lo, panels, v, {head.grads + rows.lo * v, v, 1},
          {head.values_across + seen.lo * v, v * kPanel<T>}, {logit_grad_ + corner, kTileColumns});
      for (int64_t row = rows.lo; row < rows.hi; ++row) {
        weigh_row(head, row, row * kTileColumns + columns.lo, masks[row], seen, band.full);
      }
    });
  }

  // The columns `seen` of a row, which begin at `place` of the tile.
  void weigh_row(
      const Head<T>& head, int64_t row, int64_t place, const RowMask& mask, Range seen, bool full) {
    T* const line = weights_ + place;
    T* const grad = logit_grad_ + place;
    const bool biased = problem_->bias.any();
    const T* const bias = biased ? bias_tile_ + place : nullptr;
    const int64_t width = seen.hi - seen.lo;
    if (problem_->softmax) {
      softmax_backward(line, bias, grad, width, head.log_sums[row], head.means[row]);
    } else {
      silu_backward(line, bias, grad, width);
    }
    if (!full) {
      fill_unseen(line, mask, seen, T(0));
      fill_unseen(grad, mask, seen, T(0));
    }
    T* const sum = bias_grad_ + place;
    for (int64_t c = 0; biased && c < width; ++c) sum[c] += grad[c];
  }

  // dV += P^T dO, dK += dS^T Q, dQ += dS K.
  void add_up(const Head<T>& head, int64_t first_column, const Band& band) {
    const int64_t dp = qk_padded(), vp = value_padded();
    band.each_columns([&](Range columns, Range rows) {
      const int64_t count = columns.hi - columns.lo, depth = rows.hi - rows.lo;
      const int64_t corner = rows.lo * kTileColumns + columns.lo;
      const int64_t column = first_column + columns.lo, panel_row = rows.lo * kPanel<T>;
      product<T, Start::kHeld>(
          count, vp / kPanel<T>, depth, {weights_ + corner, 1, kTileColumns},
          {head.grad_panels + panel_row, kRowBlock * kPanel<T>}, {head.value_sums + column * vp, vp});
      product<T, Start::kHeld>(
          count, dp / kPanel<T>, depth, {logit_grad_ + corner, 1, kTileColumns},
          {head.query_panels + panel_row, kRowBlock * kPanel<T>}, {head.key_sums + column * dp, dp});
    });
    band.each_rows([&](Range rows, Range columns) {
      product<T, Start::kHeld>(
          rows.hi - rows.lo, dp / kPanel<T>, columns.hi - columns.lo,
          {logit_grad_ + rows.lo * kTileColumns + columns.lo, kTileColumns, 1},
          {head.keys + (first_column + columns.lo) * kPanel<T>, columns_ * kPanel<T>},
          {head.query_sums + rows.lo * dp, dp});
    });
  }

  // Add this part's sums to those of the parts before it; the last one writes them all.
  void add_columns(const Gradients<T, S>& gradients, ColumnSums<T>& together) const {
    for (size_t index = 0; index < heads_.size(); ++index) {
      T* const keys = together.keys() + index * columns_ * qk_padded();
      T* const values = together.values() + index * columns_ * value_padded();
      if (unit_->part == 0) {
        std::fill_n(keys, columns_ * qk_padded(), T(0));
        std::fill_n(values, columns_ * value_padded(), T(0));
      }
      for (const Range& range : cover_) {
        add(keys, heads_[index].key_sums, range, qk_padded());
        add(values, heads_[index].value_sums, range, value_padded());
      }
      if (unit_->part + 1 == unit_->num_parts) write_columns(gradients, index, keys, values);
    }
  }

  static void add(T* to, const T* from, Range columns, int64_t width) {
    for (int64_t at = columns.lo * width; at < columns.hi * width; ++at) to[at] += from[at];
  }

  void write_columns(
      const Gradients<T, S>& gradients, size_t index, const T* keys, const T* values) const {
    const int64_t d = problem_->qk_width, v = problem_->value_width;
    write(gradients.k, keys, qk_padded(), first_column_, used_, index, d, T(1));
    write(gradients.v, values, value_padded(), first_column_, used_, index, v, T(1));
  }

  void write(
      S* to, const T* from, int64_t stride, int64_t first, int64_t count, size_t index,
      int64_t width, T factor) const {
    for (int64_t row = 0; row < count; ++row) {
      const int64_t place = (first + row) * problem_->num_heads + unit_->heads.lo + index;
      for (int64_t i = 0; i < width; ++i) {
        to[place * width + i] = static_cast<S>(factor * from[row * stride + i]);
      }
    }
  }

  const Problem<T, S>* problem_ = nullptr;
  const Unit* unit_ = nullptr;
  int64_t first_row_ = 0, first_column_ = 0, used_ = 0, columns_ = 0;
  std::array<Range, 2> cover_{};
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
template <typename T, typename S>
void clear_unattended(const Problem<T, S>& problem, const Gradients<T, S>& gradients) {
  for (int64_t sequence = 0; sequence < problem.num_sequences; ++sequence) {
    if (problem.q_offsets[sequence + 1] > problem.q_offsets[sequence]) continue;
    const int64_t first = problem.kv_offsets[sequence] * problem.num_heads;
    const int64_t count = problem.kv_offsets[sequence + 1] * problem.num_heads - first;
    std::fill_n(gradients.k + first * problem.qk_width, count * problem.qk_width, S(0));
    std::fill_n(gradients.v + first * problem.value_width, count * problem.value_width, S(0));
  }
}

// Where the parts of each group add up, one entry a group.
template <typename T, typename S>
std::vector<ColumnSums<T>> column_sums(
    const Problem<T, S>& problem, const std::vector<Unit>& units) {
  std::vector<ColumnSums<T>> found(units.empty() ? 0 : units.back().group + 1);
  for (const Unit& unit : units) {
    if (unit.num_parts == 1 || unit.part > 0) continue;
    const int64_t used = problem.kv_offsets[unit.sequence + 1] - problem.kv_offsets[unit.sequence];
    const int64_t size = round_up(used, kPanel<T>) * (unit.heads.hi - unit.heads.lo);
    found[unit.group].reserve(
        size * round_up(problem.qk_width, kPanel<T>),
        size * round_up(problem.value_width, kPanel<T>));
  }
  return found;
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

template <typename T, typename S>
void attend_backward(
    const Problem<T, S>& problem, Field<S> grad, const S* output, const T* log_sums,
    const Gradients<T, S>& gradients) {
  const std::vector<Unit> units = units_of(problem);
  const Returned<T, S> returned{grad, output, log_sums};
  const bool biased = problem.bias.any();
  clear_unattended(problem, gradients);
  std::vector<ColumnSums<T>> together = column_sums(problem, units);
  std::vector<std::vector<double>> position(units.size()), time(units.size());
  run_units<Backward<T, S>>(units, [&](int64_t index, Backward<T, S>& backward) {
    const Unit& unit = units[index];
    // Passed on however this one ends: the next part's thread is waiting for it.
    const PassTurn turn(together[unit.group], unit.part);
    backward.run(problem, unit, returned, gradients, together[unit.group]);
    if (biased) backward.finish(position[index], time[index]);
  });
  if (problem.bias.position != nullptr) {
    add_in_order(position, gradients.position, problem.bias.num_positions);
  }
  if (problem.bias.time != nullptr) add_in_order(time, gradients.time, problem.bias.num_buckets);
}

#define FRESHET_INSTANTIATE(T, S)                                                                \
  template void attend_backward(                                                                 \
      const Problem<T, S>&, Field<S>, const S*, const T*, const Gradients<T, S>&);
FRESHET_INSTANTIATE(float, float)
FRESHET_INSTANTIATE(double, double)
FRESHET_INSTANTIATE(float, c10::BFloat16)
FRESHET_INSTANTIATE(float, c10::Half)

}  // namespace freshet
