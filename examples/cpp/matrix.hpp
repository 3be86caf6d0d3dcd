// Products, inverses and decompositions of small matrices, in double precision.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

namespace gcis {

using Matrix = std::array<std::array<double, 4>, 4>;
using Matrix3 = std::array<std::array<double, 3>, 3>;

inline Matrix identity() {
  Matrix out{};
  for (std::size_t i = 0; i < 4; ++i) out[i][i] = 1;
  return out;
}

template <std::size_t N>
std::array<std::array<double, N>, N> product(const std::array<std::array<double, N>, N> &a,
                                             const std::array<std::array<double, N>, N> &b) {
  std::array<std::array<double, N>, N> out{};
  for (std::size_t k = 0; k < N; ++k)
    for (std::size_t i = 0; i < N; ++i)
      for (std::size_t j = 0; j < N; ++j) out[i][j] += a[i][k] * b[k][j];
  return out;
}

// Solve a x = b by Gaussian elimination with partial pivoting.
template <std::size_t N>
std::array<std::array<double, N>, N> solve(std::array<std::array<double, N>, N> a,
                                           std::array<std::array<double, N>, N> b) {
  for (std::size_t k = 0; k < N; ++k) {
    std::size_t pivot = k;
    for (std::size_t i = k + 1; i < N; ++i)
      if (std::fabs(a[i][k]) > std::fabs(a[pivot][k])) pivot = i;
    std::swap(a[k], a[pivot]);
    std::swap(b[k], b[pivot]);
    for (std::size_t i = k + 1; i < N; ++i) {
      const double factor = a[i][k] / a[k][k];
      for (std::size_t j = k; j < N; ++j) a[i][j] -= factor * a[k][j];
      for (std::size_t j = 0; j < N; ++j) b[i][j] -= factor * b[k][j];
    }
  }
  for (std::size_t k = N; k-- > 0;)
    for (std::size_t j = 0; j < N; ++j) {
      for (std::size_t i = k + 1; i < N; ++i) b[k][j] -= a[k][i] * b[i][j];
      b[k][j] /= a[k][k];
    }
  return b;
}

inline Matrix3 linear_part(const Matrix &m) {
  Matrix3 out{};
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j) out[i][j] = m[i][j];
  return out;
}

inline std::array<double, 3> column_lengths(const Matrix3 &m) {
  std::array<double, 3> out{};
  for (std::size_t j = 0; j < 3; ++j) out[j] = std::sqrt(m[0][j] * m[0][j] + m[1][j] * m[1][j] + m[2][j] * m[2][j]);
  return out;
}

inline double determinant(const Matrix3 &m) {
  return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
         m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

// The rotation (or reflection) that is nearest to a matrix: the orthogonal factor of its polar decomposition.
inline Matrix3 nearest_orthogonal(Matrix3 m) {
  for (int step = 0; step < 60; ++step) {
    Matrix3 one{};
    for (std::size_t i = 0; i < 3; ++i) one[i][i] = 1;
    const Matrix3 inverse = solve(m, one);
    double change = 0;
    Matrix3 next{};
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t j = 0; j < 3; ++j) {
        next[i][j] = (m[i][j] + inverse[j][i]) / 2;
        change = std::max(change, std::fabs(next[i][j] - m[i][j]));
      }
    m = next;
    if (change < 1e-15) break;
  }
  return m;
}

// The upper triangular factor u of a positive definite matrix, u^T u = m, with positive diagonal (Cholesky).
inline Matrix3 upper_factor(const Matrix3 &m) {
  Matrix3 u{};
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = i; j < 3; ++j) {
      double rest = m[i][j];
      for (std::size_t k = 0; k < i; ++k) rest -= u[k][i] * u[k][j];
      u[i][j] = i == j ? std::sqrt(rest) : rest / u[i][i];
    }
  return u;
}

}  // namespace gcis
