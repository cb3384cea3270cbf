// Rows of a tensor copied into the order in which products read them.
#pragma once

#include "product.h"

namespace freshet {

// Rows of one head inside [rows, heads, width]: row r starts at data[r * stride].
template <typename S>
struct Rows {
  const S* data;
  int64_t stride;
};

// Rows of a head lie apart, which the processor does not foresee.
template <typename S>
inline void prefetch(Rows<S> from, int64_t first, int64_t last, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(S);
  for (int64_t row = first; row < last; ++row) {
    for (int64_t i = 0; i < width; i += kLine) __builtin_prefetch(from.data + row * from.stride + i);
  }
}

// Row by row, side by side: [count, width].
template <typename T, typename S>
inline void pack_rows(T* to, Rows<S> from, int64_t count, int64_t width, T factor) {
  for (int64_t row = 0; row < count; ++row) {
    const S* const source = from.data + row * from.stride;
    for (int64_t i = 0; i < width; ++i) to[row * width + i] = factor * static_cast<T>(source[i]);
  }
}

// As a B whose depth is the rows and whose columns are the width; every panel holds `padded` rows.
template <typename T, typename S>
inline void pack_panels(
    T* to, Rows<S> from, int64_t first, int64_t last, int64_t padded, int64_t width, T factor) {
  for (int64_t panel = 0; panel * kPanel<T> < width; ++panel) {
    const int64_t used = std::min<int64_t>(kPanel<T>, width - panel * kPanel<T>);
    for (int64_t row = first; row < last; ++row) {
      T* const line = to + (panel * padded + row) * kPanel<T>;
      const S* const source = from.data + row * from.stride + panel * kPanel<T>;
      for (int64_t i = 0; i < used; ++i) line[i] = factor * static_cast<T>(source[i]);
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
template <typename T, typename S>
inline void pack_transposed(T* to, Rows<S> from, int64_t first, int64_t last, int64_t width) {
  for (int64_t start = first; start < last; start += kPanel<T>) {
    T* const panel = to + start * width;
    const int64_t used = std::min<int64_t>(kPanel<T>, last - start);
    prefetch(from, start + used, std::min<int64_t>(start + 2 * kPanel<T>, last), width);
    if (used < kPanel<T>) std::fill(panel, panel + width * kPanel<T>, T(0));
    for (int64_t row = 0; row < used; ++row) {
      const S* const source = from.data + (start + row) * from.stride;
      for (int64_t i = 0; i < width; ++i) panel[i * kPanel<T> + row] = static_cast<T>(source[i]);
    }
  }
}

}  // namespace freshet
