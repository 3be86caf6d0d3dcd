// Compare this implementation with the vectors of docs/contract: check-vectors FOLDER
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "grid.hpp"
#include "nifti.hpp"
#include "windows.hpp"

namespace {

using namespace gcis;

int failures = 0;

void report(const std::string &name, double difference, double limit) {
  const bool good = difference <= limit;
  if (!good) ++failures;
  std::printf("%-28s %-10.3g %s\n", name.c_str(), difference, good ? "ok" : "DIFFERENT");
}

class Folder {
 public:
  explicit Folder(const std::string &path) : path_(path) {}
  std::vector<unsigned char> bytes(const std::string &name) const { return read_file(path_ + "/" + name, 1 << 26); }
  // The values of an array in the order in which they are stored; the machine must be little-endian.
  std::vector<float> values(const Json &array) const {
    const auto data = bytes(array.at("file").get<std::string>());
    const std::string type = array.at("type").get<std::string>();
    std::vector<float> out;
    for (std::size_t at = 0; at < data.size(); at += type == "float32" ? 4 : 2) {
      std::int16_t whole;
      std::uint16_t label;
      float real;
      if (type == "float32") std::memcpy(&real, data.data() + at, 4), out.push_back(real);
      else if (type == "int16") std::memcpy(&whole, data.data() + at, 2), out.push_back(whole);
      else std::memcpy(&label, data.data() + at, 2), out.push_back(label);
    }
    return out;
  }

 private:
  std::string path_;
};

double difference(const std::vector<float> &a, const std::vector<float> &b) {
  if (a.size() != b.size()) return INFINITY;
  double out = 0;
  for (std::size_t i = 0; i < a.size(); ++i) out = std::max(out, std::fabs(static_cast<double>(a[i]) - b[i]));
  return out;
}

double difference(const Matrix &a, const Json &b) {
  double out = 0;
  for (std::size_t i = 0; i < 4; ++i)
    for (std::size_t j = 0; j < 4; ++j) out = std::max(out, std::fabs(a[i][j] - b.at(i).at(j).get<double>()));
  return out;
}

double difference(const std::optional<GridMap> &a, const Json &b) {
  if (!a || b.is_null()) return a.has_value() == !b.is_null() ? 0 : INFINITY;
  return difference(a->matrix, b);
}

double unequal(const std::vector<std::uint16_t> &labels, const std::vector<float> &expected) {
  return difference(std::vector<float>(labels.begin(), labels.end()), expected);
}

Matrix read_matrix(const Json &j) { return j.get<Matrix>(); }

Box read_box(const Json &j, const Shape &whole) {
  Box out{{0, 0, 0}, whole};
  for (std::size_t a = 0; a < 3 && !j.is_null(); ++a) out.first[a] = j[a][0], out.stop[a] = j[a][1];
  return out;
}

void check_plan(const std::string &name, const WindowPlan &plan, const Json &j) {
  const bool same = plan.before == j.at("before").get<Shape>() && plan.padded == j.at("padded").get<Shape>() &&
                    plan.axis == j.at("axis").get<std::size_t>() && plan.starts == j.at("starts").get<std::vector<Shape>>();
  report(name, same ? 0 : 1, 0);
}

void check_preprocess(const Folder &folder, const Json &j) {
  const std::string name = j.at("name").get<std::string>() + " ";
  const Preprocess spec = read_preprocess(j.at("preprocess"));
  const Shape shape = j.at("image").at("shape").get<Shape>();
  const GridTransform grid = plan_grid(shape, read_matrix(j.at("affine")), spec);
  const bool same = grid.flipped == j.at("flipped").get<std::array<bool, 3>>() &&
                    grid.order == j.at("order").get<std::array<std::size_t, 3>>() &&
                    grid.shape == j.at("input").at("shape").get<Shape>();
  report(name + "axes", same ? 0 : 1, 0);
  report(name + "network_affine", difference(grid.affine, j.at("network_affine")), 1e-9);
  report(name + "to_network", difference(grid.to_network, j.at("to_network")), 1e-9);
  report(name + "to_file", difference(grid.to_file, j.at("to_file")), 1e-9);
  const Array input = preprocess(folder.values(j.at("image")), shape, grid, spec);
  report(name + "input", difference(input.data, folder.values(j.at("input"))), 1e-6);
  if (j.at("foreground").is_null()) return;
  const auto found = foreground_box(input, grid, spec);
  const Box expected = read_box(j.at("foreground"), input.shape);
  report(name + "foreground", found && found->first == expected.first && found->stop == expected.stop ? 0 : 1, 0);
}

void check_weights(const Folder &folder, const Json &j) {
  const Array weights = window_weights(read_window(j.at("window")));
  for (std::size_t i = 0; i < j.at("planes").size(); ++i) {
    const auto expected = folder.values(j["planes"][i]);
    const float *first = weights.data.data() + weights.index(j["first"][i], 0, 0);
    report("weights " + j["planes"][i].at("file").get<std::string>(),
           difference(std::vector<float>(first, first + expected.size()), expected), 1e-6);
  }
}

std::vector<Label> read_labels(const Json &values) {
  std::vector<Label> out;
  for (const Json &value : values) out.push_back({value.get<int>(), ""});
  return out;
}

void check_restore(const Folder &folder, const Json &j, const Json &cases) {
  for (const Json &entry : cases) {
    if (entry.at("name") != j.at("preprocess")) continue;
    const Shape shape = entry.at("image").at("shape").get<Shape>();
    const auto grid = plan_grid(shape, read_matrix(entry.at("affine")), read_preprocess(entry.at("preprocess")));
    const auto all = folder.values(j.at("logits"));
    std::vector<Array> logits(2, Array(grid.shape));
    for (std::size_t p = 0; p < 2; ++p)
      for (std::size_t i = 0; i < logits[p].data.size(); ++i) logits[p].data[i] = all.at(p * logits[p].data.size() + i);
    const auto labels = restore(logits, grid, shape, read_labels(j.at("values")));
    report("restore " + entry.at("name").get<std::string>(), unequal(labels, folder.values(j.at("smooth"))), 0);
  }
}

void check_segment(const Folder &folder, const Json &j) {
  const Preprocess spec = read_preprocess(j.at("preprocess"));
  const Window window = read_window(j.at("window"));
  const Shape shape = j.at("image").at("shape").get<Shape>();
  const GridTransform grid = plan_grid(shape, read_matrix(j.at("affine")), spec);
  const Array input = preprocess(folder.values(j.at("image")), shape, grid, spec);
  const Box box = read_box(j.at("foreground"), input.shape), found = foreground_box(input, grid, spec).value();
  report("segment foreground", box.first == found.first && box.stop == found.stop ? 0 : 1, 0);
  const WindowPlan plan = plan_windows(input.shape, window, found);
  check_plan("segment plan", plan, j);
  const Json &network = j.at("network");
  const auto stand_in = [&](std::vector<float> &content) {
    std::vector<float> out(2 * content.size());
    const std::size_t plane = content.size() / static_cast<std::size_t>(window.patch_size[0]);
    for (std::size_t p = 0; p < 2; ++p) {
      const float gain = network.at("gain")[p], threshold = network.at("threshold")[p], tilt = network.at("tilt")[p];
      for (std::size_t i = 0; i < content.size(); ++i)
        out[p * content.size() + i] = gain * (content[i] - threshold) + tilt * (static_cast<float>(i / plane) - 31.5f);
    }
    return out;
  };
  const Array weights = weights_within(window_weights(window), window, plan, found);
  const auto logits = blend(input, window, plan, weights, 2, stand_in);
  std::vector<float> all = logits[0].data;
  all.insert(all.end(), logits[1].data.begin(), logits[1].data.end());
  report("segment logits", difference(all, folder.values(j.at("logits"))), 1e-5);
  const auto labels = restore(logits, grid, shape, read_labels(j.at("values")));
  report("segment labels", unequal(labels, folder.values(j.at("smooth"))), 0);
}

void check_nifti(const Folder &folder, const Json &j) {
  const auto image = folder.bytes(j.at("image")), expected = folder.bytes(j.at("label"));
  Header header{};
  std::copy(image.begin(), image.begin() + static_cast<std::ptrdiff_t>(header.size()), header.begin());
  const Header found = label_header(header, j.at("type") == "uint16");
  report("nifti " + j.at("label").get<std::string>(), std::equal(found.begin(), found.end(), expected.begin()) ? 0 : 1, 0);
}

}  // namespace

int main(int count, char **values) {
  if (count != 2) {
    std::fprintf(stderr, "usage: check-vectors FOLDER\n");
    return 2;
  }
  try {
    const Folder folder(values[1]);
    const auto text = folder.bytes("index.json");
    const Json index = Json::parse(text.begin(), text.end());
    if (index.at("schema") != "gcis-contract" || index.at("version") != 1) throw Failure("another version of the vectors");
    for (const Json &j : index.at("preprocess")) check_preprocess(folder, j);
    for (const Json &j : index.at("plans"))
      check_plan("plan " + j.at("shape").dump(), plan_windows(j.at("shape"), read_window(j.at("window")),
                                                              read_box(j.at("within"), j.at("shape"))), j);
    for (const Json &j : index.at("weights")) check_weights(folder, j);
    for (const Json &j : index.at("restore")) check_restore(folder, j, index.at("preprocess"));
    for (const Json &j : index.at("segment")) check_segment(folder, j);
    for (const Json &j : index.at("nifti")) check_nifti(folder, j);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return failures ? 1 : 0;
}
