// SHA-256 (FIPS 180-4) of bytes in memory.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace gcis {

// The first 32 bits of the fractional part of a root of a prime number.
inline std::uint32_t root_bits(long double root) {
  return static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L);
}

inline std::string sha256(const std::vector<unsigned char> &data) {
  std::array<std::uint32_t, 64> constant{};
  std::array<std::uint32_t, 8> state{};
  for (unsigned n = 2, found = 0; found < 64; ++n) {
    bool prime = true;
    for (unsigned d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
    if (!prime) continue;
    if (found < 8) state[found] = root_bits(std::sqrt(static_cast<long double>(n)));
    constant[found++] = root_bits(std::cbrt(static_cast<long double>(n)));
  }
  auto turn = [](std::uint32_t v, int by) { return v >> by | v << (32 - by); };
  const std::uint64_t bits = static_cast<std::uint64_t>(data.size()) * 8;
  const std::size_t padded = (data.size() + 9 + 63) / 64 * 64;
  auto byte = [&](std::size_t i) -> std::uint32_t {
    if (i < data.size()) return data[i];
    if (i == data.size()) return 0x80;
    return i + 8 < padded ? 0 : static_cast<std::uint32_t>(bits >> (8 * (padded - 1 - i)) & 0xff);
  };
  for (std::size_t first = 0; first < padded; first += 64) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i) {
      const std::size_t at = first + 4 * i;
      w[i] = byte(at) << 24 | byte(at + 1) << 16 | byte(at + 2) << 8 | byte(at + 3);
    }
    for (std::size_t i = 16; i < 64; ++i)
      w[i] = w[i - 16] + w[i - 7] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) +
             (turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t one =
          h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + constant[i] + w[i];
      const std::uint32_t two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    const std::array<std::uint32_t, 8> last{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += last[i];
  }
  std::string text;
  for (const std::uint32_t word : state)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

}  // namespace gcis
