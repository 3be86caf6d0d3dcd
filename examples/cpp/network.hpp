// Run the graph of a bundle in ONNX Runtime on the CPU.
#pragma once

#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "failure.hpp"
#include "ort_api.hpp"

namespace gcis {

class Network {
 public:
  Network(const Bundle &bundle, int threads) : bundle_(bundle), api_(OrtGetApiBase()->GetApi(ORT_API_VERSION)) {
    if (!api_) throw Failure("this ONNX Runtime does not offer version 1 of its API");
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "gcis", &env_), "cannot start");
    check(api_->DisableTelemetryEvents(env_), "cannot start");
    OrtSessionOptions *options = nullptr;
    check(api_->CreateSessionOptions(&options), "cannot start");
    const std::unique_ptr<OrtSessionOptions, void (*)(OrtSessionOptions *)> owner(options,
                                                                                  api_->ReleaseSessionOptions);
    check(api_->SetIntraOpNumThreads(options, threads), "cannot use this number of threads");
    check(api_->SetInterOpNumThreads(options, 1), "cannot start");
    check(api_->CreateSessionFromArray(env_, bundle.model.data(), bundle.model.size(), options, &session_),
          "cannot load the graph");
    check(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory_), "cannot start");
  }
  ~Network() {
    if (memory_) api_->ReleaseMemoryInfo(memory_);
    if (session_) api_->ReleaseSession(session_);
    if (env_) api_->ReleaseEnv(env_);
  }
  Network(const Network &) = delete;
  Network &operator=(const Network &) = delete;

  // From a window (X, Y, Z) to logits (structures, X, Y, Z), Z fastest.
  std::vector<float> operator()(std::vector<float> &window) const {
    const auto &size = bundle_.window.patch_size;
    const std::array<std::int64_t, 5> shape{1, 1, size[0], size[1], size[2]};
    using Value = std::unique_ptr<OrtValue, void (*)(OrtValue *)>;
    OrtValue *in = nullptr, *out = nullptr;
    check(api_->CreateTensorWithDataAsOrtValue(memory_, window.data(), window.size() * sizeof(float), shape.data(),
                                               shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &in),
          "cannot create the input");
    const Value input(in, api_->ReleaseValue);
    const char *input_name = bundle_.input.c_str(), *output_name = bundle_.output.c_str();
    check(api_->Run(session_, nullptr, &input_name, &in, 1, &output_name, 1, &out), "failed on a window");
    const Value output(out, api_->ReleaseValue);
    const std::size_t count = window.size() * bundle_.labels.size();
    void *data = nullptr;
    require_floats(out, count);
    check(api_->GetTensorMutableData(out, &data), "returned no tensor");
    const float *first = static_cast<const float *>(data);
    std::vector<float> logits(first, first + count);
    for (const float value : logits)
      if (!std::isfinite(value)) throw Failure("the network returned a logit that is not finite");
    return logits;
  }

 private:
  void check(OrtStatus *status, const std::string &what) const {
    if (!status) return;
    const std::string text = api_->GetErrorMessage(status);
    api_->ReleaseStatus(status);
    throw Failure("ONNX Runtime " + what, text);
  }
  void require_floats(const OrtValue *value, std::size_t expected) const {
    OrtTensorTypeAndShapeInfo *info = nullptr;
    check(api_->GetTensorTypeAndShape(value, &info), "returned no tensor");
    std::size_t count = 0;
    ONNXTensorElementDataType type{};
    OrtStatus *one = api_->GetTensorShapeElementCount(info, &count), *two = api_->GetTensorElementType(info, &type);
    api_->ReleaseTensorTypeAndShapeInfo(info);
    check(one, "returned no tensor");
    check(two, "returned no tensor");
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || count != expected)
      throw Failure("the graph has another output than the manifest states", std::to_string(count) + " values",
                    std::to_string(expected) + " of type float32");
  }

  const Bundle &bundle_;
  const OrtApi *api_;
  OrtEnv *env_ = nullptr;
  OrtSession *session_ = nullptr;
  OrtMemoryInfo *memory_ = nullptr;
};

}  // namespace gcis
