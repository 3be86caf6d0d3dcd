"""Compile `kernels.cu` for the host, so that the fake CUDA driver runs the shipped source."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from pathlib import Path

from gcis_runtime.sliding.cuda import kernels as sources
from tests.support.numpy_kernels import Kernel

SHIM = r"""
#include <cmath>
#include <cstring>
#include <utility>
#define __device__
#define __global__
struct Index { unsigned x; };
static Index blockIdx, blockDim, threadIdx;
static unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
static unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static void atomicMin(unsigned *p, unsigned v) { *p = min(*p, v); }
static void atomicMax(unsigned *p, unsigned v) { *p = max(*p, v); }
"""
RUNNER = r"""
template <typename... A, std::size_t... I>
static void run(void (*kernel)(A...), unsigned blocks, unsigned threads, void **a, std::index_sequence<I...>)
{
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            kernel(*static_cast<A *>(a[I])...);
}
template <typename... A> static void start(void (*kernel)(A...), unsigned blocks, unsigned threads, void **a)
{
    run(kernel, blocks, threads, a, std::index_sequence_for<A...>());
}
"""


def compile_for_host(folder: Path) -> dict[str, Kernel] | None:
    """Compile `kernels.cu` with the host's C++ compiler and return its kernels by name.

    Returns None if neither g++ nor clang++ is installed.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    entries = [
        f'extern "C" void host_{name}(unsigned b, unsigned t, void **a) {{ start({name}, b, t, a); }}\n'
        for name in sources.NAMES
    ]
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(SHIM + sources.source() + RUNNER + "".join(entries))
    flags = [
        "-O2",
        "-std=c++17",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
    ]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))

    def call(name: str, blocks: int, threads: int, pointers: int) -> None:
        getattr(loaded, f"host_{name}")(
            ctypes.c_uint(blocks), ctypes.c_uint(threads), ctypes.c_void_p(pointers)
        )

    return {name: functools.partial(call, name) for name in sources.NAMES}
