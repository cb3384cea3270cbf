// One vector register of numbers, written so that the compiler picks the machine's instructions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace freshet {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kMicroRows = 12;
#else
constexpr int kVectorBytes = 32;
// 6 rows of two registers and what they are made of fill the 16 registers there are.
constexpr int kMicroRows = 6;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
// Matrices are cut into panels as wide as the innermost loop: two registers.
template <typename T>
constexpr int kPanel = 2 * kLanes<T>;

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
inline void store(T* to, Vector<T> value) {
  std::memcpy(to, &value, sizeof(value));
}

inline int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// exp to 1 unit in the last place or two: 2^n times a polynomial on [-ln2/2, ln2/2] (Cephes' expf).
// NaN stays NaN: every comparison with it is false.
inline Vector<float> exponential(Vector<float> x) {
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
  const Vector<float> least = Vector<float>{} - 87.3f, most = Vector<float>{} + 88.3f;
  x = x < least ? least : x;
  x = x > most ? most : x;
  // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
  const Vector<float> shifted = x * 1.44269504088896341f + 12582912.0f;
  const Vector<float> n = shifted - 12582912.0f;
  const Vector<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const Bits power = ((Bits)shifted + 127) << 23;
  return y * (Vector<float>)power;
}

// Double is for proofs, not for speed.
inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

}  // namespace freshet
