// The forward pass: blocks of rows against tiles of the columns they attend.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "bias.h"
#include "score.h"

namespace freshet {
namespace {

template <typename T, typename S>
class Forward {
 public:
  void run(const Problem<T, S>& problem, const Unit& unit, S* output, T* log_sums) {
    problem_ = &problem;
    unit_ = &unit;
    first_row_ = problem.q_offsets[unit.sequence];
    pack_columns();
    if (problem.bias.any()) bias_.start(problem, unit, false);
    for (int64_t row = unit.rows.lo; row < unit.rows.hi; row += kRowBlock) {
      run_block({row, std::min(row + kRowBlock, unit.rows.hi)}, output, log_sums);
    }
  }

 private:
  int64_t num_heads() const { return unit_->heads.hi - unit_->heads.lo; }
  int64_t output_width() const { return round_up(problem_->value_width, kPanel<T>); }
  int64_t key_size() const { return columns_ * problem_->qk_width; }
  int64_t value_size() const { return columns_ * output_width(); }

  // Keys and values of every column that a row of the unit attends, in the order products read.
  void pack_columns() {
    const int64_t first = problem_->kv_offsets[unit_->sequence];
    const int64_t used = problem_->kv_offsets[unit_->sequence + 1] - first;
    columns_ = round_up(used, kPanel<T>);
    masks_of(masks_, problem_->intervals + 4 * first_row_, unit_->rows);
    T* const keys = keys_.get(num_heads() * key_size());
    T* const values = values_.get(num_heads() * value_size());
    for (const Range& range : cover(masks_.data(), masks_.size(), kPanel<T>)) {
      const int64_t last = std::min(range.hi, used);
      for (int64_t head = 0; head < num_heads(); ++head) {
        const Rows<S> key = problem_->k.rows(first, unit_->heads.lo + head);
        const Rows<S> value = problem_->v.rows(first, unit_->heads.lo + head);
        T* const packed = values + head * value_size();
        pack_transposed(keys + head * key_size(), key, range.lo, last, problem_->qk_width);
        pack_panels(packed, value, range.lo, last, columns_, problem_->value_width, T(1));
        zero_panels(packed, last, range.hi, columns_, problem_->value_width);
      }
    }
  }

  void run_block(Range rows, S* output, T* log_sums) {
    const int64_t count = rows.hi - rows.lo, width = problem_->qk_width;
    const RowMask* const masks = masks_.data() + (rows.lo - unit_->rows.lo);
    T* const queries = queries_.get(num_heads() * kRowBlock * width);
    for (int64_t head = 0; head < num_heads(); ++head) {
      const Rows<S> query = problem_->q.rows(first_row_ + rows.lo, unit_->heads.lo + head);
      pack_rows(queries + head * kRowBlock * width, query, count, width, problem_->scale);
      prefetch(query, count, std::min(2 * kRowBlock, unit_->rows.hi - rows.lo), width);
    }
    std::fill_n(sums_.get(num_heads() * kRowBlock * output_width()),
                num_heads() * kRowBlock * output_width(), T(0));
    running_.assign(num_heads() * kRowBlock, {});
    tiles_of(tiles_, masks, count, kPanel<T>, kTileColumns);
    for (const Range& tile : tiles_) {
      const Band band = band_of(masks, count, tile, kPanel<T>);
      if (problem_->bias.any()) bias_.look_up(rows.lo, tile.lo, band, bias_tile_);
      for (int64_t head = 0; head < num_heads(); ++head) run_tile(head, masks, tile.lo, band);
    }
    for (int64_t head = 0; head < num_heads(); ++head) write(head, rows, output, log_sums);
  }

  void run_tile(int64_t head, const RowMask* masks, int64_t first_column, const Band& band) {
    const int64_t width = problem_->qk_width;
    const T* const queries = queries_.peek() + head * kRowBlock * width;
    const T* const keys = keys_.peek() + head * key_size();
    const T* const values = values_.peek() + head * value_size();
    T* const sums = sums_.get(0) + head * kRowBlock * output_width();
    band.each_rows([&](Range rows, Range columns) {
      const Range seen{first_column + columns.lo, first_column + columns.hi};
      T* const weights = weights_ + rows.lo * kTileColumns + columns.lo;
      product<T, Start::kZero>(
          rows.hi - rows.lo, (columns.hi - columns.lo) / kPanel<T>, width,
          {queries + rows.lo * width, width, 1}, {keys + seen.lo * width, width * kPanel<T>},
          {weights, kTileColumns});
      for (int64_t row = rows.lo; row < rows.hi; ++row) {
        const T* const bias = bias_tile_ + row * kTileColumns + columns.lo;
        weigh(
            weights + (row - rows.lo) * kTileColumns, problem_->bias.any() ? bias : nullptr,
            masks[row], seen, band.full, running_[head * kRowBlock + row],
            sums + row * output_width());
      }
      product<T, Start::kHeld>(
          rows.hi - rows.lo, output_width() / kPanel<T>, columns.hi - columns.lo,
          {weights, kTileColumns, 1}, {values + seen.lo * kPanel<T>, columns_ * kPanel<T>},
          {sums + rows.lo * output_width(), output_width()});
    });
  }

  // A row's logits in the columns `seen` become its weights.
  void weigh(
      T* line, const T* bias, const RowMask& mask, Range seen, bool full, RunningSum<T>& running,
      T* sums) const {
    if (problem_->softmax) {
      const T factor = running.add(line, bias, mask, seen);
      for (int64_t i = 0; i < output_width(); ++i) sums[i] *= factor;
    } else {
      silu(line, bias, seen.hi - seen.lo);
      if (!full) fill_unseen(line, mask, seen, T(0));
    }
  }

  void write(int64_t head, Range rows, S* output, T* log_sums) {
    for (int64_t row = 0; row < rows.hi - rows.lo; ++row) {
      const RunningSum<T>& running = running_[head * kRowBlock + row];
      const bool empty = problem_->softmax && running.sum == T(0);
      const T total = problem_->softmax ? running.sum : problem_->divisor;
      const int64_t place =
          (first_row_ + rows.lo + row) * problem_->num_heads + unit_->heads.lo + head;
      const T* const sums = sums_.peek() + (head * kRowBlock + row) * output_width();
      S* const line = output + place * problem_->value_width;
      for (int64_t i = 0; i < problem_->value_width; ++i) {
        line[i] = static_cast<S>(empty ? T(0) : sums[i] / total);
      }
      if (problem_->softmax) log_sums[place] = empty ? T(0) : running.most + std::log(running.sum);
    }
  }

  const Problem<T, S>* problem_ = nullptr;
  const Unit* unit_ = nullptr;
  int64_t first_row_ = 0, columns_ = 0;
  Buffer<T> keys_, values_, queries_, sums_;
  std::vector<RowMask> masks_;
  std::vector<Range> tiles_;
  std::vector<RunningSum<T>> running_;
  UnitBias<T> bias_;
  T weights_[kRowBlock * kTileColumns];
  T bias_tile_[kRowBlock * kTileColumns];
};

}  // namespace

template <typename T, typename S>
void attend(const Problem<T, S>& problem, S* output, T* log_sums) {
  const std::vector<Unit> units = units_of(problem);
  run_units<Forward<T, S>>(units, [&](int64_t index, Forward<T, S>& forward) {
    forward.run(problem, units[index], output, log_sums);
  });
}

template void attend(const Problem<float, float>&, float*, float*);
template void attend(const Problem<double, double>&, double*, double*);
template void attend(const Problem<float, c10::BFloat16>&, c10::BFloat16*, float*);
template void attend(const Problem<float, c10::Half>&, c10::Half*, float*);

}  // namespace freshet
