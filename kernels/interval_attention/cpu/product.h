// Small matrix products C += A B on tiles that fit into the cache.
//
// A product starts from what C holds and adds in the order of the depth, so a number does not depend
// on how its sum was cut into tiles.
#pragma once

#include <algorithm>

#include "vector.h"

namespace freshet {

// A(row, depth) is at data[row * row_stride + depth * depth_stride]: a transposed A costs nothing.
template <typename T>
struct Left {
  const T* data;
  int64_t row_stride;
  int64_t depth_stride;
};

// B(depth, column) lies in panels of kPanel columns: data[panel * panel_stride + depth * kPanel + c].
template <typename T>
struct Panels {
  const T* data;
  int64_t panel_stride;
};

template <typename T>
struct Target {
  T* data;
  int64_t row_stride;
};

template <typename T, int kRows>
inline void micro_product(int64_t depth, Left<T> a, const T* b, Target<T> c) {
  Vector<T> sum[kRows][2];
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    sum[row][0] = load(c.data + row * c.row_stride);
    sum[row][1] = load(c.data + row * c.row_stride + kLanes<T>);
  }
  const T* at = a.data;
  for (int64_t step = 0; step < depth; ++step) {
    const Vector<T> b0 = load(b), b1 = load(b + kLanes<T>);
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
      const T factor = at[row * a.row_stride];
      sum[row][0] += factor * b0;
      sum[row][1] += factor * b1;
    }
    at += a.depth_stride;
    b += kPanel<T>;
  }
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    store(c.data + row * c.row_stride, sum[row][0]);
    store(c.data + row * c.row_stride + kLanes<T>, sum[row][1]);
  }
}

// The last rows, fewer than kMicroRows.
template <typename T, int kRows = kMicroRows - 1>
inline void rest_product(int64_t rows, int64_t depth, Left<T> a, const T* b, Target<T> c) {
  if (rows == kRows) {
    micro_product<T, kRows>(depth, a, b, c);
  } else if constexpr (kRows > 1) {
    rest_product<T, kRows - 1>(rows, depth, a, b, c);
  }
}

// Not inlined: where strides become constants the compiler hoists more than registers hold, and the
// sums spill into memory (measured: less than half as fast).
// C[rows, panels * kPanel] += A[rows, depth] B[depth, panels * kPanel].
template <typename T>
[[gnu::noinline]] void add_product(
    int64_t rows, int64_t panels, int64_t depth, Left<T> a, Panels<T> b, Target<T> c) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    const T* columns = b.data + panel * b.panel_stride;
    int64_t row = 0;
    for (; row + kMicroRows <= rows; row += kMicroRows) {
      micro_product<T, kMicroRows>(
          depth, {a.data + row * a.row_stride, a.row_stride, a.depth_stride}, columns,
          {c.data + row * c.row_stride + panel * kPanel<T>, c.row_stride});
    }
    rest_product<T>(
        rows - row, depth, {a.data + row * a.row_stride, a.row_stride, a.depth_stride}, columns,
        {c.data + row * c.row_stride + panel * kPanel<T>, c.row_stride});
  }
}

// Rows of one head inside [rows, heads, width]: row r starts at data[r * stride].
template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
};

// Row by row, side by side: [count, width].
template <typename T>
inline void pack_rows(T* to, Rows<T> from, int64_t count, int64_t width, T factor) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < width; ++i) to[row * width + i] = factor * from.data[row * from.stride + i];
  }
}

// As a B whose depth is the rows and whose columns are the width; every panel holds `padded` rows.
template <typename T>
inline void pack_panels(
    T* to, Rows<T> from, int64_t first, int64_t last, int64_t padded, int64_t width, T factor) {
  for (int64_t panel = 0; panel * kPanel<T> < width; ++panel) {
    const int64_t used = std::min<int64_t>(kPanel<T>, width - panel * kPanel<T>);
    for (int64_t row = first; row < last; ++row) {
      T* const line = to + (panel * padded + row) * kPanel<T>;
      const T* const source = from.data + row * from.stride + panel * kPanel<T>;
      for (int64_t i = 0; i < used; ++i) line[i] = factor * source[i];
      std::fill(line + used, line + kPanel<T>, T(0));
    }
  }
}

// Rows of such panels that stand for none: they meet weight 0, which needs something finite.
template <typename T>
inline void zero_panels(T* to, int64_t first, int64_t last, int64_t padded, int64_t width) {
  for (int64_t panel = 0; panel * kPanel<T> < width; ++panel) {
    T* const lines = to + panel * padded * kPanel<T>;
    std::fill(lines + first * kPanel<T>, lines + last * kPanel<T>, T(0));
  }
}

// As a B whose depth is the width and whose columns are the rows; past `last` columns are zero.
template <typename T>
inline void pack_transposed(T* to, Rows<T> from, int64_t first, int64_t last, int64_t width) {
  for (int64_t start = first; start < last; start += kPanel<T>) {
    T* const panel = to + start * width;
    const int64_t used = std::min<int64_t>(kPanel<T>, last - start);
    if (used < kPanel<T>) std::fill(panel, panel + width * kPanel<T>, T(0));
    for (int64_t row = 0; row < used; ++row) {
      const T* const source = from.data + (start + row) * from.stride;
      for (int64_t i = 0; i < width; ++i) panel[i * kPanel<T> + row] = source[i];
    }
  }
}

}  // namespace freshet
