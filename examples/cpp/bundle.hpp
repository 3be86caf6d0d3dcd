// Read manifest.json and model.onnx of a bundle, and compare the model with the manifest.
#pragma once

#include <array>
#include <cstdint>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "failure.hpp"
#include "sha256.hpp"

namespace gcis {

using Json = nlohmann::json;
using Shape = std::array<std::int64_t, 3>;

struct Preprocess {
  std::string orientation;  // empty: the axes of the file
  std::optional<std::array<double, 3>> spacing;
  double low = 0, high = 0;
  std::optional<std::int64_t> foreground_margin;
};

struct Window {
  Shape patch_size{};
  double overlap = 0, sigma_scale = 0;
  bool gaussian = true;
  float padding = 0;
};

struct Label {
  int value = 0;
  std::string name;
};

struct Bundle {
  std::string notice, input, output;
  Preprocess preprocess;
  Window window;
  std::vector<Label> labels;
  bool has_rules = false;
  std::vector<unsigned char> model;
};

inline std::vector<unsigned char> read_file(const std::string &path, std::int64_t most) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) throw Failure(path + " cannot be read", "", "a bundle folder with manifest.json and model.onnx");
  if (size > most) throw Failure(path + " is too large", std::to_string(size) + " bytes", "at most " + std::to_string(most));
  std::vector<unsigned char> data(static_cast<std::size_t>(size));
  file.seekg(0);
  if (!file.read(reinterpret_cast<char *>(data.data()), size)) throw Failure(path + " cannot be read");
  return data;
}

inline void only(const Json &object, const std::string &name, std::initializer_list<const char *> known) {
  for (const auto &entry : object.items()) {
    bool found = false;
    for (const char *key : known) found = found || entry.key() == key;
    if (!found) throw Failure("this program does not know a field of " + name, entry.key());
  }
}

inline Preprocess read_preprocess(const Json &j) {
  only(j, "preprocess", {"orientation", "spacing", "intensity_window", "foreground"});
  Preprocess out;
  if (!j.at("orientation").is_null()) out.orientation = j.at("orientation").get<std::string>();
  if (!j.at("spacing").is_null()) out.spacing = j.at("spacing").get<std::array<double, 3>>();
  out.low = j.at("intensity_window").at(0).get<double>();
  out.high = j.at("intensity_window").at(1).get<double>();
  if (j.contains("foreground")) {
    only(j["foreground"], "preprocess.foreground", {"margin"});
    out.foreground_margin = j["foreground"].value("margin", std::int64_t{0});
  }
  bool valid = out.low < out.high && out.foreground_margin.value_or(0) >= 0 && out.foreground_margin.value_or(0) <= 1000;
  for (const double s : out.spacing.value_or(std::array<double, 3>{1, 1, 1})) valid = valid && s >= 0.05 && s <= 50;
  bool seen[3] = {false, false, false};
  for (const char code : out.orientation) {
    const std::size_t pair = std::string("LRPAIS").find(code);
    valid = valid && pair != std::string::npos && !seen[pair / 2];
    if (pair != std::string::npos) seen[pair / 2] = true;
  }
  valid = valid && (out.orientation.empty() || out.orientation.size() == 3);
  if (!valid) throw Failure("the preprocessing cannot be used", j.dump());
  return out;
}

inline Window read_window(const Json &j) {
  only(j, "window", {"roi", "overlap", "blend", "sigma_scale", "padding_value"});
  Window out;
  out.patch_size = j.at("roi").get<Shape>();
  out.overlap = j.at("overlap").get<double>();
  out.sigma_scale = j.at("sigma_scale").get<double>();
  out.padding = j.at("padding_value").get<float>();
  const std::string blend = j.at("blend").get<std::string>();
  out.gaussian = blend == "gaussian";
  bool valid = (out.gaussian || blend == "constant") && out.overlap >= 0 && out.overlap < 1 && out.sigma_scale > 0;
  for (const std::int64_t n : out.patch_size) valid = valid && n >= 64 && n <= 1024 && n % 32 == 0;
  if (!valid) throw Failure("the sliding window cannot be used", j.dump());
  return out;
}

inline Bundle parse_manifest(const Json &m) {
  if (m.at("schema") != "gcis-bundle" || m.at("schema_version") != 2)
    throw Failure("the manifest has another format", m.at("schema").dump() + " version " + m.at("schema_version").dump(),
                  "\"gcis-bundle\" version 2");
  Bundle out;
  out.notice = m.at("notice").get<std::string>();
  out.preprocess = read_preprocess(m.at("preprocess"));
  out.window = read_window(m.at("window"));
  out.input = m.at("input").at("name").get<std::string>();
  out.output = m.at("output").at("name").get<std::string>();
  for (const Json &label : m.at("labels")) {
    out.labels.push_back({label.at("value").get<int>(), label.at("name").get<std::string>()});
    out.has_rules = out.has_rules || label.contains("post");
  }
  using Tensor = std::array<std::int64_t, 5>;
  const auto &[x, y, z] = out.window.patch_size;
  if (m.at("input").at("shape").get<Tensor>() != Tensor{1, 1, x, y, z} ||
      m.at("output").at("shape").get<Tensor>() != Tensor{1, static_cast<std::int64_t>(out.labels.size()), x, y, z})
    throw Failure("the tensors do not match window and labels", m.at("output").dump());
  for (const Label &label : out.labels)
    if (label.value < 1 || label.value > 65535)
      throw Failure("a label value cannot be stored", std::to_string(label.value), "1 to 65535");
  return out;
}

inline Bundle open_bundle(const std::string &folder) {
  try {
    const auto text = read_file(folder + "/manifest.json", 4 << 20);
    const Json manifest = Json::parse(text.begin(), text.end());
    Bundle out = parse_manifest(manifest);
    out.model = read_file(folder + "/model.onnx", std::numeric_limits<std::int32_t>::max());
    for (const Json &entry : manifest.at("files")) {
      if (entry.at("path") != "model.onnx") continue;
      const std::string digest = sha256(out.model);
      if (entry.at("bytes") != out.model.size() || entry.at("sha256") != digest)
        throw Failure(folder + "/model.onnx is not the file that was exported", "sha256 " + digest,
                      entry.at("sha256").get<std::string>());
      return out;
    }
    throw Failure("the manifest does not list model.onnx");
  } catch (const Json::exception &error) {
    throw Failure(folder + "/manifest.json is damaged", error.what());
  }
}

}  // namespace gcis
