// Read a CT from a NIfTI-1 file and write a label map with its geometry.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "matrix.hpp"

namespace gcis {

using Header = std::array<unsigned char, 348>;

struct Image {
  Shape shape{};
  Matrix affine{};            // from voxel index to RAS+ mm
  std::vector<float> voxels;  // HU, X fastest
  Header header{};            // in the byte order of this machine
};

Image read_image(const std::string &path);

// Write labels (X fastest) as uint8, or as uint16 if one exceeds 255; the file appears complete or not at all.
void write_labels(const std::string &path, const std::vector<std::uint16_t> &labels, const Image &like);

Header label_header(const Header &image, bool wide);

}  // namespace gcis
