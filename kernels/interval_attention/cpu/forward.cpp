// The forward pass: blocks of rows against tiles of the columns they attend.

#include "bias.h"
#include "score.h"

namespace freshet {
namespace {

// Rows are independent: a long sequence becomes many units.
constexpr int64_t kChunkRows = 20 * kRowBlock;

template <typename T>
class Forward {
 public:
  void run(const Problem<T>& problem, const Unit& unit, T* output, T* log_sums) {
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
  int64_t value_panels() const { return (problem_->value_width + kPanel<T> - 1) / kPanel<T>; }
  int64_t key_size() const { return columns_ * problem_->qk_width; }
  int64_t value_size() const { return columns_ * value_panels() * kPanel<T>; }
  int64_t output_width() const { return value_panels() * kPanel<T>; }

  // Keys and values of every column that a row of the unit attends, in the order products read.
  void pack_columns() {
    const int64_t first = problem_->kv_offsets[unit_->sequence];
    const int64_t used = problem_->kv_offsets[unit_->sequence + 1] - first;
    columns_ = round_up(used, kPanel<T>);
    masks_.clear();
    for (int64_t row = unit_->rows.lo; row < unit_->rows.hi; ++row) {
      masks_.push_back(row_mask(problem_->intervals + 4 * (first_row_ + row)));
    }
    T* const keys = keys_.get(num_heads() * key_size());
    T* const values = values_.get(num_heads() * value_size());
    for (const Range& range : cover(masks_.data(), masks_.size(), kPanel<T>)) {
      const int64_t last = std::min(range.hi, used);
      for (int64_t head = 0; head < num_heads(); ++head) {
        const Rows<T> key = problem_->k.rows(first, unit_->heads.lo + head);
        const Rows<T> value = problem_->v.rows(first, unit_->heads.lo + head);
        T* const packed = values + head * value_size();
        pack_transposed(keys + head * key_size(), key, range.lo, last, problem_->qk_width);
        pack_panels(packed, value, range.lo, last, columns_, problem_->value_width, T(1));
        zero_panels(packed, last, range.hi, columns_, problem_->value_width);
      }
    }
  }

  void run_block(Range rows, T* output, T* log_sums) {
    const int64_t count = rows.hi - rows.lo, width = problem_->qk_width;
    const RowMask* const masks = masks_.data() + (rows.lo - unit_->rows.lo);
    T* const queries = queries_.get(num_heads() * kRowBlock * width);
    for (int64_t head = 0; head < num_heads(); ++head) {
      const Rows<T> query = problem_->q.rows(first_row_ + rows.lo, unit_->heads.lo + head);
      pack_rows(queries + head * kRowBlock * width, query, count, width, problem_->scale);
    }
    std::fill_n(sums_.get(num_heads() * kRowBlock * output_width()),
                num_heads() * kRowBlock * output_width(), T(0));
    running_.assign(num_heads() * kRowBlock, {});
    tiles_of(tiles_, masks, count, kPanel<T>, kTileColumns);
    for (const Range& tile : tiles_) {
      if (problem_->bias.any()) bias_.look_up(rows, tile, bias_tile_);
      for (int64_t head = 0; head < num_heads(); ++head) run_tile(head, count, masks, tile);
    }
    for (int64_t head = 0; head < num_heads(); ++head) write(head, rows, output, log_sums);
  }

  void run_tile(int64_t head, int64_t count, const RowMask* masks, Range tile) {
    const int64_t width = problem_->qk_width, columns = tile.hi - tile.lo;
    std::fill_n(weights_, count * kTileColumns, T(0));
    add_product<T>(
        count, columns / kPanel<T>, width,
        {queries_.get(0) + head * kRowBlock * width, width, 1},
        {keys_.get(0) + head * key_size() + tile.lo * width, width * kPanel<T>},
        {weights_, kTileColumns});
    T* const sums = sums_.get(0) + head * kRowBlock * output_width();
    for (int64_t row = 0; row < count; ++row) {
      T* const line = weights_ + row * kTileColumns;
      const T* const bias = problem_->bias.any() ? bias_tile_ + row * kTileColumns : nullptr;
      if (problem_->softmax) {
        const T factor = running_[head * kRowBlock + row].add(line, bias, masks[row], tile);
        for (int64_t i = 0; i < output_width(); ++i) sums[row * output_width() + i] *= factor;
      } else {
        silu(line, bias, columns);
        fill_unseen(line, masks[row], tile, T(0));
      }
    }
    add_product<T>(
        count, value_panels(), columns, {weights_, kTileColumns, 1},
        {values_.get(0) + head * value_size() + tile.lo * kPanel<T>, columns_ * kPanel<T>},
        {sums, output_width()});
  }

  void write(int64_t head, Range rows, T* output, T* log_sums) {
    for (int64_t row = 0; row < rows.hi - rows.lo; ++row) {
      const RunningSum<T>& running = running_[head * kRowBlock + row];
      const bool empty = problem_->softmax && running.sum == T(0);
      const T total = problem_->softmax ? running.sum : problem_->divisor;
      const int64_t place =
          (first_row_ + rows.lo + row) * problem_->num_heads + unit_->heads.lo + head;
      const T* const sums = sums_.get(0) + (head * kRowBlock + row) * output_width();
      T* const line = output + place * problem_->value_width;
      for (int64_t i = 0; i < problem_->value_width; ++i) line[i] = empty ? T(0) : sums[i] / total;
      if (problem_->softmax) log_sums[place] = empty ? T(0) : running.most + std::log(running.sum);
    }
  }

  const Problem<T>* problem_ = nullptr;
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

template <typename T>
void attend(const Problem<T>& problem, T* output, T* log_sums) {
  const std::vector<Unit> units = units_of(problem, kChunkRows);
  run_units<Forward<T>>(units, [&](int64_t index, Forward<T>& forward) {
    forward.run(problem, units[index], output, log_sums);
  });
}

template void attend<float>(const Problem<float>&, float*, float*);
template void attend<double>(const Problem<double>&, double*, double*);

}  // namespace freshet
