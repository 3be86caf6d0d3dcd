#include "nifti.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>

#include <zlib.h>

#include <sys/stat.h>
#include <unistd.h>

namespace gcis {
namespace {

constexpr std::int64_t kMostVoxels = std::int64_t{1} << 31, kMostRatio = 1032, kMostTrailing = 1 << 20;

struct Type {
  int code, bytes;
};
constexpr Type kTypes[] = {{2, 1},   {4, 2},   {8, 4},   {16, 4},   {64, 8},
                           {256, 1}, {512, 2}, {768, 4}, {1024, 8}, {1280, 8}};

// Fields of two, four and eight bytes, whose order depends on the machine that wrote the file.
struct Field {
  std::size_t at, bytes, count;
};
constexpr Field kFields[] = {{0, 4, 1},   {32, 4, 1},  {36, 2, 1},  {40, 2, 8},  {56, 4, 3},
                             {68, 2, 4},  {76, 4, 8},  {108, 4, 3}, {120, 2, 1}, {124, 4, 4},
                             {140, 4, 2}, {252, 2, 2}, {256, 4, 6}, {280, 4, 12}};

template <class T>
T get(const Header &header, std::size_t at) {
  T out;
  std::memcpy(&out, header.data() + at, sizeof(T));
  return out;
}

template <class T>
void set(Header &header, std::size_t at, T value) {
  std::memcpy(header.data() + at, &value, sizeof(T));
}

void swap_bytes(unsigned char *first, std::size_t bytes, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) std::reverse(first + i * bytes, first + (i + 1) * bytes);
}

template <class T>
void convert(const unsigned char *raw, std::size_t count, float *out) {
  for (std::size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, raw + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

void to_floats(const Type &type, const unsigned char *raw, std::size_t count, float *out) {
  switch (type.code) {
    case 2: return convert<std::uint8_t>(raw, count, out);
    case 4: return convert<std::int16_t>(raw, count, out);
    case 8: return convert<std::int32_t>(raw, count, out);
    case 16: return convert<float>(raw, count, out);
    case 64: return convert<double>(raw, count, out);
    case 256: return convert<std::int8_t>(raw, count, out);
    case 512: return convert<std::uint16_t>(raw, count, out);
    case 768: return convert<std::uint32_t>(raw, count, out);
    case 1024: return convert<std::int64_t>(raw, count, out);
    default: return convert<std::uint64_t>(raw, count, out);
  }
}

// A file that zlib reads, compressed or not.
class Stream {
 public:
  explicit Stream(const std::string &path) : path_(path), file_(gzopen(path.c_str(), "rb"), gzclose) {
    if (!file_) throw Failure(path + " cannot be read");
  }
  // Read up to `count` bytes; fewer only at the end of the file.
  std::size_t read(unsigned char *out, std::size_t count) {
    std::size_t done = 0;
    while (done < count) {
      const auto part = static_cast<unsigned>(std::min<std::size_t>(count - done, 1 << 24));
      const int got = gzread(file_.get(), out + done, part);
      if (got < 0) damaged();
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }
  void require_end() {
    std::vector<unsigned char> rest(kMostTrailing + 1);
    if (read(rest.data(), rest.size()) > kMostTrailing) throw Failure(path_ + " continues after its last voxel");
    int code = 0;
    gzerror(file_.get(), &code);
    if (code != Z_OK && code != Z_STREAM_END) damaged();
  }
  bool compressed() { return gzdirect(file_.get()) == 0; }

 private:
  [[noreturn]] void damaged() {
    int code = 0;
    throw Failure(path_ + " is damaged or truncated", gzerror(file_.get(), &code));
  }
  std::string path_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

bool usable(const Matrix &affine) {
  for (const auto &row : affine)
    for (const double value : row)
      if (!std::isfinite(value)) return false;
  const auto spacing = column_lengths(linear_part(affine));
  for (const double s : spacing)
    if (!(s > 1e-3 && s < 1e3)) return false;
  return std::fabs(determinant(linear_part(affine))) / (spacing[0] * spacing[1] * spacing[2]) >= 1e-2;
}

Matrix sform(const Header &h) {
  Matrix out = identity();
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 4; ++j) out[i][j] = get<float>(h, 280 + 16 * i + 4 * j);
  return out;
}

double voxel_size(const Header &h, std::size_t axis) {
  const double size = std::fabs(get<float>(h, 76 + 4 * (axis + 1)));
  return size == 0 ? 1 : size;
}

Matrix qform(const Header &h) {
  const long double x = get<float>(h, 256), y = get<float>(h, 260), z = get<float>(h, 264);
  const long double rest = 1 - (x * x + y * y + z * z);
  const double limit = 3 * static_cast<double>(std::numeric_limits<float>::epsilon());
  const double a = std::fabs(static_cast<double>(rest)) < limit ? 0 : static_cast<double>(std::sqrt(rest));
  const double b = static_cast<double>(x), c = static_cast<double>(y), d = static_cast<double>(z);
  const double s = 2 / (a * a + b * b + c * c + d * d);
  const Matrix3 rotation{{{1 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)},
                          {s * (b * c + a * d), 1 - s * (b * b + d * d), s * (c * d - a * b)},
                          {s * (b * d - a * c), s * (c * d + a * b), 1 - s * (b * b + c * c)}}};
  Matrix out = identity();
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j)
      out[i][j] = rotation[i][j] * voxel_size(h, j) * (j == 2 && get<float>(h, 76) == -1 ? -1 : 1);
    out[i][3] = get<float>(h, 268 + 4 * i);
  }
  return out;
}

// The affine of a file without sform and qform: its centre at the origin, X reversed.
Matrix centred(const Header &h, const Shape &shape) {
  Matrix out = identity();
  for (std::size_t i = 0; i < 3; ++i) {
    out[i][i] = voxel_size(h, i) * (i == 0 ? -1 : 1);
    out[i][3] = -static_cast<double>(shape[i] - 1) / 2 * out[i][i];
  }
  return out;
}

// Return the affine; an unusable sform is switched off in the header if there is a usable qform.
Matrix read_affine(Header &h, const Shape &shape, const std::string &path) {
  const int q = get<std::int16_t>(h, 252), unit = h[123] & 7;
  if (q && get<std::int16_t>(h, 254) && !usable(sform(h)) && usable(qform(h))) set<std::int16_t>(h, 254, 0);
  Matrix out = get<std::int16_t>(h, 254) ? sform(h) : q ? qform(h) : centred(h, shape);
  const double factor = unit == 1 ? 1000 : unit == 3 ? 1e-3 : 1;
  for (std::size_t i = 0; i < 3; ++i)
    for (double &value : out[i]) value *= factor;
  if (!usable(out)) throw Failure(path + " has an invalid affine", "", "finite values, 0.001 to 1000 mm per voxel");
  return out;
}

Shape read_shape(const Header &h, const std::string &path) {
  int axes = get<std::int16_t>(h, 40);
  if (axes < 1 || axes > 7) throw Failure(path + " has a damaged header", std::to_string(axes) + " axes", "3");
  while (axes > 3 && get<std::int16_t>(h, 40 + 2 * static_cast<std::size_t>(axes)) == 1) --axes;
  if (axes != 3) throw Failure(path + " is not one three-dimensional volume", std::to_string(axes) + " axes");
  Shape out{};
  std::int64_t count = 1;
  for (std::size_t i = 0; i < 3; ++i) {
    out[i] = get<std::int16_t>(h, 42 + 2 * i);
    if (out[i] < 1) throw Failure(path + " is empty", std::to_string(out[i]) + " voxels along an axis");
    count *= out[i];
  }
  if (count > kMostVoxels) throw Failure(path + " is implausibly large", std::to_string(count) + " voxels");
  return out;
}

Header read_header(Stream &stream, const std::string &path, bool &swapped) {
  Header out{};
  const std::size_t got = stream.read(out.data(), out.size());
  Header turned = out;
  for (const Field &field : kFields) swap_bytes(turned.data() + field.at, field.bytes, field.count);
  swapped = got == out.size() && get<std::int32_t>(turned, 0) == 348;
  if (swapped) out = turned;
  const bool single = std::memcmp(out.data() + 344, "n+1", 4) == 0;
  if (got != out.size() || get<std::int32_t>(out, 0) != 348 || !single)
    throw Failure(path + " cannot be used", "another header", "NIfTI-1 in one file (.nii or .nii.gz)");
  return out;
}

const Type &read_type(const Header &h, const std::string &path) {
  const int code = get<std::int16_t>(h, 70), bits = get<std::int16_t>(h, 72);
  for (const Type &type : kTypes)
    if (type.code == code) {
      if (bits && bits != 8 * type.bytes) throw Failure(path + ": bitpix does not match datatype", std::to_string(bits));
      return type;
    }
  throw Failure(path + ": the voxels are not real numbers", "datatype " + std::to_string(code));
}

std::int64_t file_size(const std::string &path) {
  struct stat status {};
  if (stat(path.c_str(), &status) || !S_ISREG(status.st_mode)) throw Failure(path + " is not a regular file");
  return status.st_size;
}

}  // namespace

Image read_image(const std::string &path) {
  const std::int64_t size = file_size(path);
  Stream stream(path);
  Image out;
  bool swapped = false;
  out.header = read_header(stream, path, swapped);
  out.shape = read_shape(out.header, path);
  out.affine = read_affine(out.header, out.shape, path);
  const Type &type = read_type(out.header, path);
  const float offset = get<float>(out.header, 108);
  if (!(offset >= 352 && offset <= 1 << 28 && offset == std::floor(offset)))
    throw Failure(path + " has a damaged header", "vox_offset " + std::to_string(offset), "352 to 268435456");
  const std::int64_t count = out.shape[0] * out.shape[1] * out.shape[2];
  const std::int64_t need = static_cast<std::int64_t>(offset) + count * type.bytes;
  if (need / (stream.compressed() ? kMostRatio : 1) > size)
    throw Failure(path + " is truncated", std::to_string(size) + " bytes", std::to_string(need) + " by its header");
  std::vector<unsigned char> part(static_cast<std::size_t>(offset) - 348);
  if (stream.read(part.data(), part.size()) != part.size()) throw Failure(path + " is truncated");
  const float slope = get<float>(out.header, 112), inter = get<float>(out.header, 116);
  const bool scaled = slope != 0 && std::isfinite(slope) && !(slope == 1 && inter == 0);
  if (scaled && !std::isfinite(inter)) throw Failure(path + " has a damaged header", "scl_inter is not finite");
  out.voxels.resize(static_cast<std::size_t>(count));
  const std::size_t step = 1 << 20;
  part.resize(step * static_cast<std::size_t>(type.bytes));
  for (std::size_t first = 0; first < out.voxels.size(); first += step) {
    const std::size_t some = std::min(step, out.voxels.size() - first), bytes = static_cast<std::size_t>(type.bytes);
    if (stream.read(part.data(), some * bytes) != some * bytes) throw Failure(path + " is truncated");
    if (swapped) swap_bytes(part.data(), bytes, some);
    to_floats(type, part.data(), some, out.voxels.data() + first);
  }
  stream.require_end();
  for (float &value : out.voxels) {
    if (scaled) value = value * slope, value = value + inter;
    if (!std::isfinite(value)) throw Failure(path + " has voxels that are not finite");
  }
  return out;
}

Header label_header(const Header &image, bool wide) {
  Header out = image;
  std::memset(out.data() + 148, 0, 80 + 24);               // descrip, aux_file
  std::memset(out.data() + 328, 0, 16);                    // intent_name
  set<std::int16_t>(out, 68, 0);                           // intent_code
  set<std::int16_t>(out, 70, wide ? 512 : 2);              // datatype
  set<std::int16_t>(out, 72, wide ? 16 : 8);               // bitpix
  set<float>(out, 108, 352);                               // vox_offset
  set<float>(out, 112, 1), set<float>(out, 116, 0);        // scl_slope, scl_inter
  set<float>(out, 124, 0), set<float>(out, 128, 0);        // cal_max, cal_min
  if (get<std::int16_t>(out, 40) != 3) {                   // further axes have one voxel of size 1
    set<std::int16_t>(out, 40, 3);
    for (std::size_t i = 4; i < 8; ++i) set<std::int16_t>(out, 40 + 2 * i, 1), set<float>(out, 76 + 4 * i, 1);
  }
  return out;
}

void write_labels(const std::string &path, const std::vector<std::uint16_t> &labels, const Image &like) {
  const bool wide = !labels.empty() && *std::max_element(labels.begin(), labels.end()) > 255;
  const Header header = label_header(like.header, wide);
  std::vector<unsigned char> data(header.begin(), header.end());
  data.resize(352);
  for (const std::uint16_t label : labels) {
    unsigned char bytes[2];
    std::memcpy(bytes, &label, 2);
    if (wide) data.insert(data.end(), bytes, bytes + 2);
    else data.push_back(static_cast<unsigned char>(label));
  }
  const std::string temporary = path + ".part" + std::to_string(getpid());
  const bool packed = path.size() > 3 && path.compare(path.size() - 3, 3, ".gz") == 0;
  const gzFile file = gzopen(temporary.c_str(), packed ? "wb" : "wbT");
  if (!file) throw Failure(path + " cannot be written", std::strerror(errno));
  bool good = true;
  for (std::size_t first = 0; good && first < data.size(); first += 1 << 24) {
    const auto count = static_cast<unsigned>(std::min<std::size_t>(data.size() - first, 1 << 24));
    good = gzwrite(file, data.data() + first, count) == static_cast<int>(count);
  }
  good = gzclose(file) == Z_OK && good && std::rename(temporary.c_str(), path.c_str()) == 0;
  if (!good) {
    std::remove(temporary.c_str());
    throw Failure(path + " cannot be written", std::strerror(errno));
  }
}

}  // namespace gcis
