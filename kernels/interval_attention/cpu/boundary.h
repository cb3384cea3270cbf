// What the operators refuse. The door says it better, but an exported program calls them without it,
// and no argument may lead outside of a tensor's memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace freshet {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline void check_tensor(
    const char* name, const Tensor& x, at::ScalarType dtype, at::IntArrayRef sizes) {
  TORCH_CHECK(
      x.scalar_type() == dtype && x.sizes() == sizes, "interval_attention refuses ", name, ": it is ",
      x.scalar_type(), x.sizes(), ", not ", dtype, sizes);
}

inline void check_offsets(const char* name, const Tensor& offsets, int64_t batch, int64_t rows) {
  check_tensor(name, offsets, at::kLong, {batch + 1});
  const Tensor flat = offsets.contiguous();
  const int64_t* const at = flat.const_data_ptr<int64_t>();
  bool rises = at[0] == 0 && at[batch] == rows;
  for (int64_t b = 0; b < batch; ++b) rises &= at[b] <= at[b + 1];
  TORCH_CHECK(
      rises, "interval_attention refuses ", name, ": they do not rise from 0 to ", rows);
}

// Columns of intervals are int32, those of a sequence may be more: nobody attends the rest.
inline void check_intervals(
    const Tensor& intervals, const Tensor& q_offsets, const Tensor& kv_offsets) {
  const Tensor flat = intervals.contiguous(), rows = q_offsets.contiguous();
  const Tensor columns = kv_offsets.contiguous();
  const int32_t* const edges = flat.const_data_ptr<int32_t>();
  const int64_t* const row_at = rows.const_data_ptr<int64_t>();
  const int64_t* const column_at = columns.const_data_ptr<int64_t>();
  for (int64_t sequence = 0; sequence + 1 < rows.numel(); ++sequence) {
    const int64_t most = column_at[sequence + 1] - column_at[sequence];
    for (int64_t at = 4 * row_at[sequence]; at < 4 * row_at[sequence + 1]; ++at) {
      TORCH_CHECK(
          edges[at] >= 0 && edges[at] <= most, "interval_attention refuses intervals: row ", at / 4,
          " has ", edges[at], " over ", most, " columns");
    }
  }
}

inline void check_column(const char* name, const MaybeTensor& x, int64_t size) {
  TORCH_CHECK(x.has_value(), "interval_attention refuses ", name, ": it is missing");
  check_tensor(name, *x, at::kLong, {size});
}

inline void check_table(const char* name, const Tensor& table, at::ScalarType dtype) {
  check_tensor(name, table, dtype, {std::max<int64_t>(table.numel(), 1)});
}

}  // namespace freshet
