"""Read the files of a bundle so that the bytes that were checked are the bytes that are used.

A file is opened once, through no link, and its hash is computed from the bytes that are returned. A file that
is exchanged afterwards, or between two readings, is therefore either not used or refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gcis_runtime.bundles.manifest_parts import FileEntry
from gcis_runtime.bundles.onnx_graph import ExternalTensor, check_onnx
from gcis_runtime.errors import BundleError
from gcis_runtime.system.own_files import LinkError, NotPlainError, open_inside

FIX = "Export it again, or fetch it again if it was copied."
_CHUNK = 1 << 20


def read_listed(folder: Path, entry: FileEntry) -> bytes:
    """Return the content of a listed file, after comparing size and hash with the manifest.

    Raises:
        BundleError: The path leads out of the bundle or through a link, or the file is missing, is not a
            plain file, or differs from the exported one.
    """
    with _opened(folder, entry) as file:
        data = file.read(entry.bytes)
    if len(data) != entry.bytes:
        raise _other_size(folder / entry.path, len(data), entry)
    _compare(folder / entry.path, hashlib.sha256(data).hexdigest(), entry)
    return data


def verify_file(folder: Path, entry: FileEntry, copy: int | None = None) -> None:
    """Compare size and hash of a listed file with the manifest, without keeping the content.

    Args:
        folder: Folder of the bundle.
        entry: The listed file.
        copy: Descriptor that the bytes are also written to as they are hashed.

    Raises:
        BundleError: See `read_listed`.
    """
    with _opened(folder, entry) as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            rest = memoryview(chunk)
            while copy is not None and rest:
                rest = rest[os.write(copy, rest) :]
    _compare(folder / entry.path, digest.hexdigest(), entry)


def check_graph_file(folder: Path, entry: FileEntry, listed: Mapping[str, int]) -> tuple[ExternalTensor, ...]:
    """Verify a graph and check its content; return its tensors in other files, as `check_onnx` does.

    Raises:
        BundleError: The file differs from the exported one, or the graph has content that is refused.
    """
    return check_onnx(read_listed(folder, entry), source=str(folder / entry.path), listed=listed)


def safe_path(folder: Path, relative: str) -> Path:
    """Join a path of a manifest to the bundle's folder, and check that it stays inside, also through links.

    Raises:
        BundleError: The path is absolute, contains `..`, a drive or a backslash, or leads out of the folder.
    """
    pure = PurePosixPath(relative)
    path = folder / relative
    unsafe = not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or ":" in relative
    if unsafe or not _leads_into(path, folder):
        raise BundleError(
            f"{folder} names a file outside itself",
            received=repr(relative[:200]),
            expected="a path inside the bundle",
            fix="Do not use this bundle.",
        )
    return path


def _leads_into(path: Path, folder: Path) -> bool:
    """Return whether a path stays in a folder when links are followed; False for impossible paths."""
    try:
        path.exists()  # raises for names too long and cycles of links, which `resolve` ignores
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a name too long, a cycle of links, a null byte
        return False


def _opened(folder: Path, entry: FileEntry) -> BinaryIO:
    """Open a listed file and compare its size with the manifest."""
    path = safe_path(folder, entry.path)
    try:
        file = open_inside(folder, entry.path)
    except LinkError as error:
        raise BundleError(
            f"{folder} contains a link",
            received=f"{error.filename}",
            expected="plain files",
            fix="Replace the link by the file itself, as `cp -rL` does.",
        ) from error
    except (NotPlainError, FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{folder} lacks a file", received="no such file", expected=entry.path, fix=FIX
        ) from error
    size = os.fstat(file.fileno()).st_size
    if size != entry.bytes:
        file.close()
        raise _other_size(path, size, entry)
    return file


def _other_size(path: Path, size: int, entry: FileEntry) -> BundleError:
    return BundleError(
        f"{path} has a different size", received=f"{size} bytes", expected=f"{entry.bytes} bytes", fix=FIX
    )


def _compare(path: Path, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise BundleError(
            f"{path} is not the file that was exported",
            received=f"sha256 {digest[:12]}…",
            expected=f"{entry.sha256[:12]}…",
            fix=FIX,
        )
