// Segment a CT in NIfTI format with a bundle, to the labels of `gcis-run --engine onnx --precision fp32 --raw`.
//
// Research software, not a medical device.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "bundle.hpp"
#include "grid.hpp"
#include "network.hpp"
#include "nifti.hpp"
#include "windows.hpp"

namespace {

using namespace gcis;

struct Options {
  std::string bundle, image, output;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
};

constexpr const char *kUsage = "usage: gcis-segment BUNDLE CT.nii.gz -o LABELS.nii.gz [--threads N]";

bool parse(const std::vector<std::string> &arguments, Options &out) {
  std::vector<std::string> positional;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string &argument = arguments[i];
    if (argument.empty() || argument[0] != '-') {
      positional.push_back(argument);
      continue;
    }
    if (++i == arguments.size()) return false;
    const std::string &value = arguments[i];
    if (argument == "-o") {
      out.output = value;
    } else if (argument == "--threads") {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out.threads);
      if (error != std::errc() || end != value.data() + value.size() || out.threads < 1 || out.threads > 1024) return false;
    } else {
      return false;
    }
  }
  const auto ends = [&](const std::string &suffix) {
    return out.output.size() > suffix.size() && out.output.substr(out.output.size() - suffix.size()) == suffix;
  };
  if (positional.size() != 2 || !(ends(".nii") || ends(".nii.gz"))) return false;
  out.bundle = positional[0], out.image = positional[1];
  return true;
}

void segment(const Options &options) {
  const Bundle bundle = open_bundle(options.bundle);
  const Image image = read_image(options.image);
  const GridTransform transform = plan_grid(image.shape, image.affine, bundle.preprocess);
  const Array input = preprocess(image.voxels, image.shape, transform, bundle.preprocess);
  std::optional<Box> box = Box{{0, 0, 0}, input.shape};
  if (bundle.preprocess.foreground_margin) box = foreground_box(input, transform, bundle.preprocess);
  std::vector<std::uint16_t> labels(image.voxels.size());
  if (box) {
    const WindowPlan plan = plan_windows(input.shape, bundle.window, *box);
    const Array weights = weights_within(window_weights(bundle.window), bundle.window, plan, *box);
    const Network network(bundle, options.threads);
    const auto logits = blend(input, bundle.window, plan, weights, bundle.labels.size(),
                              [&](std::vector<float> &window) { return network(window); });
    labels = restore(logits, transform, image.shape, bundle.labels);
    std::printf("%zu windows\n", plan.starts.size());
  }
  write_labels(options.output, labels, image);
  std::map<int, std::size_t> counts;
  for (const std::uint16_t label : labels) ++counts[label];
  const double voxel_ml = std::fabs(determinant(linear_part(image.affine))) / 1000;
  for (const Label &label : bundle.labels)
    std::printf("%5d  %10.2f mL  %s\n", label.value, static_cast<double>(counts[label.value]) * voxel_ml, label.name.c_str());
  if (bundle.has_rules) std::printf("the post-processing rules of the bundle were not applied\n");
  std::printf("%s\n%s\n", options.output.c_str(), bundle.notice.c_str());
}

}  // namespace

int main(int count, char **values) {
  Options options;
  if (!parse({values + 1, values + count}, options)) {
    std::fprintf(stderr, "%s\n", kUsage);
    return 2;
  }
  try {
    segment(options);
    return 0;
  } catch (const std::bad_alloc &) {
    std::fprintf(stderr, "error: the memory is too small for this image\n");
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return 1;
}
