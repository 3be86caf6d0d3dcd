// Sliding windows: positions, blending weights, blending, and labels on the grid of the file.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "bundle.hpp"
#include "grid.hpp"

namespace gcis {

struct Box {
  Shape first{}, stop{};
};

struct WindowPlan {
  Shape before{}, padded{};   // padding before each axis, shape of the padded grid
  std::size_t axis = 2;       // windows are ordered by their start along this axis, then along X, Y, Z
  std::vector<Shape> starts;  // on the padded grid
};

using Predictor = std::function<std::vector<float>(std::vector<float> &)>;

std::optional<Box> foreground_box(const Array &image, const GridTransform &transform, const Preprocess &spec);
WindowPlan plan_windows(const Shape &shape, const Window &window, const Box &within);
Array window_weights(const Window &window);
Array weights_within(Array weights, const Window &window, const WindowPlan &plan, const Box &within);

// Blended logits of each structure on the network grid; zero where no window lies.
std::vector<Array> blend(const Array &image, const Window &window, const WindowPlan &plan, const Array &weights,
                         std::size_t structures, const Predictor &predict);

// Label of each voxel of the file (X fastest): that of the largest positive interpolated logit.
std::vector<std::uint16_t> restore(const std::vector<Array> &logits, const GridTransform &transform,
                                   const Shape &file_shape, const std::vector<Label> &labels);

}  // namespace gcis
