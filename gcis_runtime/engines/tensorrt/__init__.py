"""What both TensorRT families share: importing, building, reading back, and whether an engine fits a machine.

`trt` is TensorRT (10.x and 11.x, and tensorrt-lean to run version-compatible engines); `trt-rtx` is
TensorRT-RTX, which builds without a GPU. Their Python modules offer one API under different names.
"""
