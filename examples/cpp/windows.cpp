#include "windows.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace gcis {
namespace {

std::vector<std::int64_t> axis_starts(std::int64_t length, std::int64_t size, double overlap) {
  if (length == size) return {0};
  const auto step = std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(size) * (1 - overlap)));
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < (length - size + step - 1) / step + 1; ++i) out.push_back(std::min(i * step, length - size));
  return out;
}

}  // namespace

std::optional<Box> foreground_box(const Array &image, const GridTransform &transform, const Preprocess &spec) {
  const bool sheared = transform.to_network && !transform.to_network->separable();
  const double least = sheared ? 1e-3 / (spec.high - spec.low) : 0;
  Box box{image.shape, {0, 0, 0}};
  for (std::int64_t x = 0; x < image.shape[0]; ++x)
    for (std::int64_t y = 0; y < image.shape[1]; ++y)
      for (std::int64_t z = 0; z < image.shape[2]; ++z) {
        if (!(static_cast<double>(image.data[image.index(x, y, z)]) > least)) continue;
        const Shape at{x, y, z};
        for (std::size_t a = 0; a < 3; ++a)
          box.first[a] = std::min(box.first[a], at[a]), box.stop[a] = std::max(box.stop[a], at[a] + 1);
      }
  if (box.stop[0] == 0) return std::nullopt;
  const std::int64_t margin = spec.foreground_margin.value_or(0);
  for (std::size_t a = 0; a < 3; ++a) {
    box.first[a] = std::max<std::int64_t>(box.first[a] - margin, 0);
    box.stop[a] = std::min(box.stop[a] + margin, image.shape[a]);
  }
  return box;
}

WindowPlan plan_windows(const Shape &shape, const Window &window, const Box &within) {
  WindowPlan out;
  std::array<std::vector<std::int64_t>, 3> along;
  double count = 1;
  for (std::size_t a = 0; a < 3; ++a) {
    const std::int64_t size = within.stop[a] - within.first[a], laid = std::max(size, window.patch_size[a]);
    const std::int64_t first = within.first[a] - (laid - size) / 2;
    out.before[a] = std::max<std::int64_t>(0, -first);
    out.padded[a] = std::max(shape[a], first + laid) + out.before[a];
    along[a] = axis_starts(laid, window.patch_size[a], window.overlap);
    for (std::int64_t &start : along[a]) start += first + out.before[a];
    count *= static_cast<double>(along[a].size());
  }
  if (count > 1e6) throw Failure("the image needs too many windows", std::to_string(count), "at most 1000000");
  const auto longest = static_cast<std::size_t>(std::max_element(out.padded.begin(), out.padded.end()) - out.padded.begin());
  out.axis = static_cast<double>(out.padded[2]) * 1.5 >= static_cast<double>(out.padded[longest]) ? 2 : longest;
  for (const std::int64_t x : along[0])
    for (const std::int64_t y : along[1])
      for (const std::int64_t z : along[2]) out.starts.push_back({x, y, z});
  std::stable_sort(out.starts.begin(), out.starts.end(),
                   [&](const Shape &a, const Shape &b) { return a[out.axis] < b[out.axis]; });
  return out;
}

Array window_weights(const Window &window) {
  Array out(window.patch_size, 1);
  if (!window.gaussian) return out;
  std::array<std::vector<float>, 3> profile;
  for (std::size_t a = 0; a < 3; ++a) {
    const auto size = static_cast<double>(window.patch_size[a]);
    const auto scale = static_cast<float>(-2 * (size * window.sigma_scale) * (size * window.sigma_scale));
    for (std::int64_t i = 0; i < window.patch_size[a]; ++i) {
      const float x = static_cast<float>(i) - static_cast<float>((size - 1) / 2);
      profile[a].push_back(std::exp(x * x / scale));
    }
  }
  std::size_t at = 0;
  for (const float x : profile[0])
    for (const float y : profile[1])
      for (const float z : profile[2]) out.data[at++] = x * y * z;
  const float floor = std::max(*std::min_element(out.data.begin(), out.data.end()), 1e-3f);
  for (float &weight : out.data) weight = std::max(weight, floor);
  return out;
}

Array weights_within(Array weights, const Window &window, const WindowPlan &plan, const Box &within) {
  Shape low{}, high = window.patch_size;
  for (std::size_t a = 0; a < 3; ++a) {
    const std::int64_t size = within.stop[a] - within.first[a];
    if (size >= window.patch_size[a]) continue;
    low[a] = within.first[a] + plan.before[a] - plan.starts.front()[a];
    high[a] = low[a] + size;
  }
  for (std::int64_t x = 0; x < weights.shape[0]; ++x)
    for (std::int64_t y = 0; y < weights.shape[1]; ++y)
      for (std::int64_t z = 0; z < weights.shape[2]; ++z) {
        const bool inside = x >= low[0] && x < high[0] && y >= low[1] && y < high[1] && z >= low[2] && z < high[2];
        if (!inside) weights.data[weights.index(x, y, z)] = 0;
      }
  return weights;
}

std::vector<Array> blend(const Array &image, const Window &window, const WindowPlan &plan, const Array &weights,
                         std::size_t structures, const Predictor &predict) {
  std::vector<Array> sums(structures, Array(image.shape));
  Array norm(image.shape);
  const Shape &size = window.patch_size;
  for (const Shape &start : plan.starts) {
    Shape from{}, low{}, high{};  // start on the unpadded grid, and the part of the window that lies on it
    for (std::size_t a = 0; a < 3; ++a) {
      from[a] = start[a] - plan.before[a];
      low[a] = std::max<std::int64_t>(0, -from[a]);
      high[a] = std::min(size[a], image.shape[a] - from[a]);
    }
    Array content(size, window.padding);
    for (std::int64_t x = low[0]; x < high[0]; ++x)
      for (std::int64_t y = low[1]; y < high[1]; ++y)
        for (std::int64_t z = low[2]; z < high[2]; ++z)
          content.data[content.index(x, y, z)] = image.data[image.index(from[0] + x, from[1] + y, from[2] + z)];
    const std::vector<float> logits = predict(content.data);
    for (std::int64_t x = low[0]; x < high[0]; ++x)
      for (std::int64_t y = low[1]; y < high[1]; ++y)
        for (std::int64_t z = low[2]; z < high[2]; ++z) {
          const std::size_t here = content.index(x, y, z), there = image.index(from[0] + x, from[1] + y, from[2] + z);
          for (std::size_t p = 0; p < structures; ++p)
            sums[p].data[there] += logits[p * content.data.size() + here] * weights.data[here];
          norm.data[there] += weights.data[here];
        }
  }
  for (Array &sum : sums)
    for (std::size_t i = 0; i < sum.data.size(); ++i) sum.data[i] = norm.data[i] > 0 ? sum.data[i] / norm.data[i] : 0;
  return sums;
}

std::vector<std::uint16_t> restore(const std::vector<Array> &logits, const GridTransform &transform,
                                   const Shape &file_shape, const std::vector<Label> &labels) {
  const Shape &shape = transform.oriented;
  std::vector<std::uint16_t> out(static_cast<std::size_t>(shape[0] * shape[1] * shape[2]));
  Array best(shape);
  for (std::size_t p = 0; p < labels.size(); ++p) {
    const Array here = transform.to_file ? transform.to_file->linear(logits[p]) : logits[p];
    std::size_t at = 0;
    for (std::int64_t x = 0; x < shape[0]; ++x)
      for (std::int64_t y = 0; y < shape[1]; ++y)
        for (std::int64_t z = 0; z < shape[2]; ++z, ++at) {
          if (!(here.data[at] > best.data[at])) continue;
          best.data[at] = here.data[at];
          out[transform.file_index({x, y, z}, file_shape)] = static_cast<std::uint16_t>(labels[p].value);
        }
  }
  return out;
}

}  // namespace gcis
