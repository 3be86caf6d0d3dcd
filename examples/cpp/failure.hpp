// The error that ends the program: what is wrong, what was received, what was expected.
#pragma once

#include <stdexcept>
#include <string>

namespace gcis {

struct Failure : std::runtime_error {
  explicit Failure(const std::string &what, const std::string &received = "", const std::string &expected = "")
      : std::runtime_error(what + (received.empty() ? "" : "\n  received: " + received) +
                           (expected.empty() ? "" : "\n  expected: " + expected)) {}
};

}  // namespace gcis
