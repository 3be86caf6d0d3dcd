#include "grid.hpp"

#include <algorithm>
#include <cmath>

namespace gcis {
namespace {

constexpr double kTolerance = 1e-3;
constexpr double kMostVoxels = 1 << 29;  // 2 GiB per array

double d(std::int64_t n) { return static_cast<double>(n); }

// Normalised voxel centres of an axis, whose edges are -1 and 1; each end is computed from its own side.
double unit_centre(std::int64_t i, std::int64_t count) {
  if (count == 1) return 0;
  const long double step = static_cast<long double>(2.0 / d(count - 1));
  const long double line = i < count / 2 ? step * static_cast<long double>(i) - 1
                                         : 1 - step * static_cast<long double>(count - 1 - i);
  return static_cast<double>(line) * d(count - 1) / d(count);
}

double to_voxel(double unit, std::int64_t count) {
  return std::min(std::max(((unit + 1.0) * d(count) - 1.0) / 2.0, 0.0), d(count) - 1.0);
}

Array lerp(const Array &in, const std::vector<double> &position, std::size_t axis) {
  Shape shape = in.shape;
  shape[axis] = static_cast<std::int64_t>(position.size());
  Array out(shape);
  for (std::int64_t x = 0; x < shape[0]; ++x)
    for (std::int64_t y = 0; y < shape[1]; ++y)
      for (std::int64_t z = 0; z < shape[2]; ++z) {
        Shape below{x, y, z};
        const double where = position[static_cast<std::size_t>(below[axis])];
        below[axis] = static_cast<std::int64_t>(std::floor(where));
        Shape above = below;
        above[axis] = std::min(below[axis] + 1, in.shape[axis] - 1);
        const auto weight = static_cast<float>(where - d(below[axis]));
        const float before = in.data[in.index(below[0], below[1], below[2])];
        const float after = in.data[in.index(above[0], above[1], above[2])];
        out.data[out.index(x, y, z)] = (after - before) * weight + before;
      }
  return out;
}

float trilinear(const Array &in, const std::array<double, 3> &where) {
  std::array<std::int64_t, 3> low{};
  std::array<float, 3> weight{};
  for (std::size_t a = 0; a < 3; ++a) {
    low[a] = static_cast<std::int64_t>(std::floor(where[a]));
    weight[a] = static_cast<float>(where[a] - d(low[a]));
  }
  float total = 0;
  for (unsigned corner = 0; corner < 8; ++corner) {
    float share = 1;
    Shape at{};
    for (std::size_t a = 0; a < 3; ++a) {
      const unsigned up = corner >> (2 - a) & 1;
      share *= up ? weight[a] : 1 - weight[a];
      at[a] = std::min(low[a] + up, in.shape[a] - 1);
    }
    total += share * in.data[in.index(at[0], at[1], at[2])];
  }
  return total;
}

bool close(const Matrix &a, const Matrix &b) {
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < 4; ++j)
      if (std::fabs(a[i][j] - b[i][j]) > kTolerance + 1e-5 * std::fabs(b[i][j])) return false;
  return true;
}

struct Direction {
  std::size_t axis = 0;  // 0: right, 1: anterior, 2: superior
  bool positive = true;
};

// The axis of the patient that each voxel axis follows most closely; every axis occurs once.
std::array<Direction, 3> directions(const Matrix &affine) {
  Matrix3 columns = linear_part(affine);
  const auto size = column_lengths(columns);
  for (auto &row : columns)
    for (std::size_t j = 0; j < 3; ++j) row[j] /= size[j];
  Matrix3 rotation = nearest_orthogonal(columns);
  std::array<std::size_t, 3> strongest{0, 1, 2};
  auto peak = [&](std::size_t j) {
    return std::max({std::fabs(rotation[0][j]), std::fabs(rotation[1][j]), std::fabs(rotation[2][j])});
  };
  const std::array<double, 3> peaks{peak(0), peak(1), peak(2)};
  std::stable_sort(strongest.begin(), strongest.end(), [&](auto a, auto b) { return peaks[a] * peaks[a] > peaks[b] * peaks[b]; });
  std::array<Direction, 3> out{};
  for (const std::size_t j : strongest) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < 3; ++i)
      if (std::fabs(rotation[i][j]) > std::fabs(rotation[best][j])) best = i;
    out[j] = {best, rotation[best][j] > 0};
    rotation[best] = {0, 0, 0};
  }
  return out;
}

// Shape and origin of the grid `target` that covers the grid of `affine`; the first voxel centre does not move.
void set_extent(const Shape &shape, const Matrix &affine, Matrix &target, Shape &shape_out) {
  const Matrix inside_map = solve(target, affine);
  std::array<std::array<double, 3>, 8> corners{}, inside{};
  std::array<double, 3> least{}, most{};
  for (std::size_t c = 0; c < 8; ++c)
    for (std::size_t a = 0; a < 3; ++a) corners[c][a] = (c >> (2 - a) & 1) ? d(shape[a] - 1) : 0;
  for (std::size_t a = 0; a < 3; ++a) {
    for (std::size_t c = 0; c < 8; ++c)
      inside[c][a] = inside_map[a][0] * corners[c][0] + inside_map[a][1] * corners[c][1] +
                     inside_map[a][2] * corners[c][2] + inside_map[a][3];
    least[a] = most[a] = inside[0][a];
    for (const auto &corner : inside) least[a] = std::min(least[a], corner[a]), most[a] = std::max(most[a], corner[a]);
    shape_out[a] = static_cast<std::int64_t>(std::nearbyint(most[a] - least[a] + 1));
  }
  if (d(shape_out[0]) * d(shape_out[1]) * d(shape_out[2]) > kMostVoxels)
    throw Failure("the image has too many voxels of the network",
                  std::to_string(shape_out[0]) + " x " + std::to_string(shape_out[1]) + " x " + std::to_string(shape_out[2]),
                  "at most 536870912");
  std::array<double, 3> from{}, back{};
  bool corner_found = false;
  for (std::size_t c = 0; c < 8 && !corner_found; ++c) {
    corner_found = true;
    for (std::size_t a = 0; a < 3; ++a) corner_found = corner_found && std::fabs(least[a] - inside[c][a]) <= 1e-8;
    if (corner_found) from = corners[c];
  }
  if (!corner_found)
    for (std::size_t a = 0; a < 3; ++a) from[a] = d(shape[a]) / 2, back[a] = d(shape_out[a]) / 2;
  for (std::size_t i = 0; i < 3; ++i) {
    target[i][3] = affine[i][3];
    for (std::size_t a = 0; a < 3; ++a) target[i][3] += affine[i][a] * from[a] - target[i][a] * back[a];
  }
}

std::optional<GridMap> resampling(const Shape &shape, const Matrix &affine, const std::array<double, 3> &spacing) {
  const Matrix3 linear = linear_part(affine);
  const auto current = column_lengths(linear);
  Matrix3 square{}, scale{};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j)
      for (std::size_t k = 0; k < 3; ++k) square[i][j] += linear[k][i] * linear[k][j];
    scale[i][i] = std::fabs(current[i] - spacing[i]) <= kTolerance ? current[i] : spacing[i];
  }
  Matrix3 one{};
  for (std::size_t i = 0; i < 3; ++i) one[i][i] = 1;
  const Matrix3 rotation = product(linear, solve(upper_factor(square), one));
  const Matrix3 zoomed = product(rotation, scale);
  Matrix target = identity();
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j) target[i][j] = zoomed[i][j];
  GridMap out;
  out.shape_in = shape;
  set_extent(shape, affine, target, out.shape_out);
  out.matrix = solve(affine, target);
  if ((close(affine, target) || close(out.matrix, identity())) && out.shape_out == shape) return std::nullopt;
  return out;
}

}  // namespace

bool GridMap::separable() const {
  for (std::size_t i = 0; i < 3; ++i) {
    double reach = 0;
    for (std::size_t j = 0; j < 3; ++j)
      if (i != j) reach += std::fabs(matrix[i][j]) * d(shape_out[j] - 1);
    if (reach > kTolerance) return false;
  }
  return true;
}

Matrix GridMap::unit_matrix() const {
  Matrix in = identity(), out = identity();
  for (std::size_t a = 0; a < 3; ++a) {
    in[a][a] = 2.0 / d(shape_in[a]), in[a][3] = 1.0 / d(shape_in[a]) - 1.0;
    out[a][a] = 2.0 / d(shape_out[a]), out[a][3] = 1.0 / d(shape_out[a]) - 1.0;
  }
  return product(product(in, matrix), solve(out, identity()));
}

std::vector<double> GridMap::axis_coordinates(std::size_t axis) const {
  const Matrix theta = unit_matrix();
  std::vector<double> out;
  for (std::int64_t i = 0; i < shape_out[axis]; ++i)
    out.push_back(to_voxel(unit_centre(i, shape_out[axis]) * theta[axis][axis] + theta[axis][3], shape_in[axis]));
  return out;
}

// The axes by increasing ratio of output to input, rounded to three decimals; the last axis first if equal.
std::vector<std::size_t> GridMap::axis_order() const {
  std::vector<std::size_t> out{2, 1, 0};
  auto growth = [&](std::size_t a) { return std::nearbyint(d(shape_out[a]) / d(shape_in[a]) * 1000); };
  std::stable_sort(out.begin(), out.end(), [&](auto a, auto b) { return growth(a) < growth(b); });
  return out;
}

Array GridMap::linear(const Array &in) const {
  if (separable()) {
    Array out = in;
    for (const std::size_t axis : axis_order()) out = lerp(out, axis_coordinates(axis), axis);
    return out;
  }
  const Matrix t = unit_matrix();
  Array out(shape_out);
  std::size_t at = 0;
  for (std::int64_t i = 0; i < shape_out[0]; ++i)
    for (std::int64_t j = 0; j < shape_out[1]; ++j)
      for (std::int64_t k = 0; k < shape_out[2]; ++k, ++at) {
        const double x = unit_centre(i, shape_out[0]), y = unit_centre(j, shape_out[1]), z = unit_centre(k, shape_out[2]);
        std::array<double, 3> where{};
        for (std::size_t a = 0; a < 3; ++a)
          where[a] = to_voxel(z * t[a][2] + y * t[a][1] + x * t[a][0] + t[a][3], shape_in[a]);
        out.data[at] = trilinear(in, where);
      }
  return out;
}

std::size_t GridTransform::file_index(const Shape &voxel, const Shape &file) const {
  Shape at{};
  for (std::size_t a = 0; a < 3; ++a) at[order[a]] = voxel[a];
  for (std::size_t a = 0; a < 3; ++a)
    if (flipped[a]) at[a] = file[a] - 1 - at[a];
  return static_cast<std::size_t>(at[0] + file[0] * (at[1] + file[1] * at[2]));
}

GridTransform plan_grid(const Shape &shape, const Matrix &affine, const Preprocess &spec) {
  GridTransform out;
  out.order = {0, 1, 2};
  Matrix oriented = identity();
  if (!spec.orientation.empty()) {
    const auto found = directions(affine);
    for (std::size_t a = 0; a < 3; ++a) {
      const std::size_t code = std::string("LRPAIS").find(spec.orientation[a]);
      for (std::size_t file = 0; file < 3; ++file)
        if (found[file].axis == code / 2) {
          out.order[a] = file;
          out.flipped[file] = found[file].positive != (code % 2 == 1);
        }
    }
    oriented = {};
    oriented[3][3] = 1;
    for (std::size_t a = 0; a < 3; ++a) {
      const std::size_t file = out.order[a];
      oriented[file][a] = out.flipped[file] ? -1 : 1;
      if (out.flipped[file]) oriented[file][3] = d(shape[file] - 1);
    }
  }
  out.affine = product(affine, oriented);
  for (std::size_t a = 0; a < 3; ++a) out.oriented[a] = shape[out.order[a]];
  out.shape = out.oriented;
  if (spec.spacing) out.to_network = resampling(out.oriented, out.affine, *spec.spacing);
  if (out.to_network) {
    const Matrix spaced = product(out.affine, out.to_network->matrix);
    out.shape = out.to_network->shape_out;
    out.to_file = GridMap{solve(spaced, out.affine), out.shape, out.oriented};
    out.affine = spaced;
  }
  return out;
}

Array preprocess(const std::vector<float> &voxels, const Shape &shape, const GridTransform &transform,
                 const Preprocess &spec) {
  Array image(transform.oriented);
  for (std::int64_t x = 0; x < image.shape[0]; ++x)
    for (std::int64_t y = 0; y < image.shape[1]; ++y)
      for (std::int64_t z = 0; z < image.shape[2]; ++z)
        image.data[image.index(x, y, z)] = voxels[transform.file_index({x, y, z}, shape)];
  if (transform.to_network) image = transform.to_network->linear(image);
  const auto low = static_cast<float>(spec.low), range = static_cast<float>(spec.high - spec.low);
  for (float &value : image.data) value = std::min(std::max((value - low) / range, 0.0f), 1.0f);
  return image;
}

}  // namespace gcis
