"""ONNX Runtime sessions on the CPU and on NVIDIA GPUs."""

from gcis_runtime.engines.onnx.quiet_import import import_onnxruntime

import_onnxruntime()  # before the modules of this package import it
