// Transform between the grid of a file and the grid of the network, and resampling in both directions.
#pragma once

#include <optional>
#include <vector>

#include "bundle.hpp"
#include "matrix.hpp"
#include "nifti.hpp"

namespace gcis {

struct Array {
  Shape shape{};
  std::vector<float> data;  // Z fastest
  explicit Array(const Shape &size = {}, float value = 0)
      : shape(size), data(static_cast<std::size_t>(size[0] * size[1] * size[2]), value) {}
  std::size_t index(std::int64_t x, std::int64_t y, std::int64_t z) const {
    return static_cast<std::size_t>((x * shape[1] + y) * shape[2] + z);
  }
};

// Map from voxel indices of an output grid to those of an input grid.
struct GridMap {
  Matrix matrix{};
  Shape shape_in{}, shape_out{};

  bool separable() const;
  Matrix unit_matrix() const;
  std::vector<double> axis_coordinates(std::size_t axis) const;
  std::vector<std::size_t> axis_order() const;
  Array linear(const Array &in) const;
};

struct GridTransform {
  std::array<bool, 3> flipped{};        // file axes that are reversed
  std::array<std::size_t, 3> order{};   // file axis of each network axis
  std::optional<GridMap> to_network, to_file;
  Shape oriented{}, shape{};            // re-oriented file grid, network grid
  Matrix affine{};                      // network voxel index to RAS+ mm

  // Position of a voxel of the re-oriented grid in a file array (X fastest).
  std::size_t file_index(const Shape &voxel, const Shape &file_shape) const;
};

GridTransform plan_grid(const Shape &shape, const Matrix &affine, const Preprocess &spec);

// The network input of an image: re-oriented, resampled, mapped to [0, 1].
Array preprocess(const std::vector<float> &voxels, const Shape &shape, const GridTransform &transform,
                 const Preprocess &spec);

}  // namespace gcis
