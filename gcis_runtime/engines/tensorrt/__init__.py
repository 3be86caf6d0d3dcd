"""Build, select and run TensorRT and TensorRT-RTX engines.

`trt` is TensorRT 10.x or 11.x, or tensorrt-lean for version-compatible engines. `trt-rtx` is TensorRT-RTX,
which builds engines without a GPU. Their Python modules have the same API under different names.
"""
