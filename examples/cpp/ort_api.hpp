// The part of ONNX Runtime's C API that this program calls, declared by position in its table of functions.
//
// The table is append-only: a library of any later version provides the functions of version 1 at the same
// positions. The wheels of ONNX Runtime contain the library without its header, onnxruntime_c_api.h; the names
// and signatures here are those of the header.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_FATAL = 4 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };
constexpr std::uint32_t ORT_API_VERSION = 1;

struct OrtApi {
  using Unused = void (*)();
  Unused unused_0[2];
  const char *(*GetErrorMessage)(const OrtStatus *);                                  // 2
  OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *name, OrtEnv **);              // 3
  Unused unused_4[2];
  OrtStatus *(*DisableTelemetryEvents)(const OrtEnv *);                               // 6
  Unused unused_7[1];
  OrtStatus *(*CreateSessionFromArray)(const OrtEnv *, const void *data, std::size_t bytes,
                                       const OrtSessionOptions *, OrtSession **);     // 8
  OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *input_names,
                    const OrtValue *const *inputs, std::size_t input_count,
                    const char *const *output_names, std::size_t output_count, OrtValue **outputs);  // 9
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);                           // 10
  Unused unused_11[13];
  OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int);                       // 24
  OrtStatus *(*SetInterOpNumThreads)(OrtSessionOptions *, int);                       // 25
  Unused unused_26[23];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *data, std::size_t bytes,
                                               const std::int64_t *shape, std::size_t rank,
                                               ONNXTensorElementDataType, OrtValue **);  // 49
  Unused unused_50[1];
  OrtStatus *(*GetTensorMutableData)(OrtValue *, void **);                            // 51
  Unused unused_52[8];
  OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *, ONNXTensorElementDataType *);  // 60
  Unused unused_61[3];
  OrtStatus *(*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo *, std::size_t *);  // 64
  OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtTensorTypeAndShapeInfo **);  // 65
  Unused unused_66[3];
  OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **);  // 69
  Unused unused_70[22];
  void (*ReleaseEnv)(OrtEnv *);                                                       // 92
  void (*ReleaseStatus)(OrtStatus *);                                                 // 93
  void (*ReleaseMemoryInfo)(OrtMemoryInfo *);                                         // 94
  void (*ReleaseSession)(OrtSession *);                                               // 95
  void (*ReleaseValue)(OrtValue *);                                                   // 96
  Unused unused_97[2];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *);                 // 99
  void (*ReleaseSessionOptions)(OrtSessionOptions *);                                 // 100
};
static_assert(sizeof(OrtApi) == 101 * sizeof(OrtApi::Unused), "the table of functions has no gaps");

struct OrtApiBase {
  const OrtApi *(*GetApi)(std::uint32_t version);
  const char *(*GetVersionString)();
};
const OrtApiBase *OrtGetApiBase();
}
