// Small matrix products on tiles that fit into the cache.
//
// A product adds in the order of the depth, so a number does not depend on how its sum was cut into
// tiles.
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

// Whether a product starts from what C holds or from nothing.
enum class Start { kHeld, kZero };

template <typename T, int kRows, Start kStart>
inline void micro_product(int64_t depth, Left<T> a, const T* b, Target<T> c) {
  Vector<T> sum[kRows][2];
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    const T* const line = c.data + row * c.row_stride;
    sum[row][0] = kStart == Start::kZero ? Vector<T>{} : load(line);
    sum[row][1] = kStart == Start::kZero ? Vector<T>{} : load(line + kLanes<T>);
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
template <typename T, Start kStart, int kRows = kMicroRows - 1>
inline void rest_product(int64_t rows, int64_t depth, Left<T> a, const T* b, Target<T> c) {
  if (rows == kRows) {
    micro_product<T, kRows, kStart>(depth, a, b, c);
  } else if constexpr (kRows > 1) {
    rest_product<T, kStart, kRows - 1>(rows, depth, a, b, c);
  }
}

// Not inlined: where strides become constants the compiler hoists more than registers hold, and the
// sums spill into memory (measured: less than half as fast).
// C[rows, panels * kPanel] (+)= A[rows, depth] B[depth, panels * kPanel].
template <typename T, Start kStart>
[[gnu::noinline]] void product(
    int64_t rows, int64_t panels, int64_t depth, Left<T> a, Panels<T> b, Target<T> c) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    const T* columns = b.data + panel * b.panel_stride;
    int64_t row = 0;
    for (; row + kMicroRows <= rows; row += kMicroRows) {
      micro_product<T, kMicroRows, kStart>(
          depth, {a.data + row * a.row_stride, a.row_stride, a.depth_stride}, columns,
          {c.data + row * c.row_stride + panel * kPanel<T>, c.row_stride});
    }
    rest_product<T, kStart>(
        rows - row, depth, {a.data + row * a.row_stride, a.row_stride, a.depth_stride}, columns,
        {c.data + row * c.row_stride + panel * kPanel<T>, c.row_stride});
  }
}

}  // namespace freshet
