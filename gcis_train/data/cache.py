"""Cache pre-processed cases on disk, from where every training process maps them into memory.

An entry is a folder of `.npy` arrays and an `entry.json` with their checksums. Its name is a hash of
everything that determines the arrays: the pre-processing spec, path, size and modification time of each file,
the label values, and the versions of the packages involved. Entries are renamed into place, so that readers
see complete entries only.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import shutil
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from gcis_runtime.images.other_file import file_stamp
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.system.atomic_files import replacing_folder
from gcis_runtime.system.json_files import decode_json
from gcis_runtime.system.rehearsal import check_writable
from gcis_train.data.datalist import Case
from gcis_train.data.placement import BY_FILE
from gcis_train.data.volumes import CaseVolume, load_case

_FORMAT = 2
"""Part of the key. 2: images and labels are read by the runtime's reader, which takes the voxel size from the
affine instead of pixdim, so that the grid of entries of format 1 may differ."""
_INDEX = "entry.json"
_CHUNK = 1 << 24
_STALE = 24 * 3600.0
"""Age in seconds from which an unfinished entry is regarded as abandoned by its process."""
_DAMAGE = (OSError, ValueError, msgspec.DecodeError)
"""Exceptions of reading an entry: a file is missing, differs from its checksum, or the index is invalid."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bytes: int
    crc32: int


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of `entry.json`: the checksums of the arrays, and the scalar fields of the case."""

    image: str
    left_right: int
    overlaps: tuple[int, ...]
    files: dict[str, _File]


class VolumeCache:
    """A folder of pre-processed cases, safe for concurrent use by several processes and threads.

    Args:
        folder: The folder; created if missing.
        notify: Called with one line when an entry is damaged and created again, or cannot be written.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, *, notify: Callable[[str], None]) -> None:
        check_writable(folder / _INDEX)
        _sweep(folder)
        self._folder = folder
        self._notify = notify
        self._read = self._made = 0
        self._counting = threading.Lock()

    def load(self, case: Case, spec: PreprocessSpec) -> CaseVolume:
        """Return the same case as `load_case`; its arrays are read-only memory maps of the entry.

        Raises:
            DataError: See `load_case`.
        """
        entry = self._folder / _key(case, spec)
        damaged = False
        if entry.is_dir():
            try:
                found = _read(entry, case)
            except _DAMAGE as error:
                self._notify(f"the cached {case.name} in {entry} is damaged ({error}): it is created again")
                damaged = True
            else:
                with self._counting:
                    self._read += 1
                return found
        volume = load_case(case, spec)
        try:
            if damaged or not entry.is_dir():  # another process may have created it
                _store(entry, case, volume)
                with self._counting:
                    self._made += 1
            return _read(entry, case)
        except _DAMAGE as error:
            # A full disk must not end the run.
            self._notify(f"{case.name} is not cached in {self._folder} ({error}): it is kept in memory")
            return volume

    def summary(self) -> str:
        """Return one line on the size of the cache and its use by this process."""
        entries, size = self.size()
        return (
            f"cache {self._folder}: {entries} cases, {size / 1e6:.1f} MB "
            f"({self._read} read and {self._made} created by this run)"
        )

    def size(self) -> tuple[int, int]:
        """Return the number of entries and their size in bytes."""
        indices = [path for path in self._folder.glob(f"*/{_INDEX}") if not path.parent.name.startswith(".")]
        return len(indices), sum(f.stat().st_size for index in indices for f in index.parent.iterdir())


def case_loader(spec: PreprocessSpec, cache: VolumeCache | None) -> Callable[[Case], CaseVolume]:
    """Return the function that loads a case, through the cache if there is one."""
    return (
        functools.partial(load_case, spec=spec) if cache is None else functools.partial(cache.load, spec=spec)
    )


def _sweep(folder: Path) -> None:
    """Remove the unfinished entries of killed processes: those not modified for a day."""
    for unfinished in folder.glob(".*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if unfinished.is_dir() and time.time() - unfinished.stat().st_mtime > _STALE:
                shutil.rmtree(unfinished)


def _key(case: Case, spec: PreprocessSpec) -> str:
    """Return a hash of everything that determines the arrays; prompts and names do not."""
    paths = [case.image, *dict.fromkeys(path for t in case.targets for path in t.labels)]
    order = {path: number for number, path in enumerate(paths)}
    placements = [t.placement for t in case.targets]
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "versions": _versions(),
        "spec": spec,
        "files": [_identity(path) for path in paths],
        "targets": [([order[path] for path in t.labels], t.values) for t in case.targets],
        **({"placements": placements} if any(p != BY_FILE for p in placements) else {}),
    }
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of the packages whose updates may change the arrays."""
    return {name: importlib.metadata.version(name) for name in ("monai", "nibabel", "numpy", "torch")}


def _identity(path: Path) -> tuple[str, int, int]:
    """Return path, size and modification time of a file; hashing hundreds of gigabytes would be too slow."""
    try:
        return str(path.resolve()), *file_stamp(path)
    except OSError:
        return str(path), -1, -1  # load_case reports the error


def _store(entry: Path, case: Case, volume: CaseVolume) -> None:
    """Write an entry, unless another process has just written it.

    Raises:
        OSError: The entry cannot be written.
    """
    try:
        with replacing_folder(entry) as temporary:
            _write(temporary, case, volume)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _write(folder: Path, case: Case, volume: CaseVolume) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {"image": volume.image, "labels": volume.labels}
    arrays |= {f"overlap{index}": mask for index, mask in volume.overlaps.items()}
    files = {}
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        files[path.name] = _File(bytes=path.stat().st_size, crc32=_checksum(path))
    entry = _Entry(
        image=str(case.image), left_right=volume.left_right, overlaps=tuple(volume.overlaps), files=files
    )
    (folder / _INDEX).write_bytes(msgspec.json.encode(entry))


def _read(folder: Path, case: Case) -> CaseVolume:
    """Map an entry into memory.

    Raises:
        ValueError: A file differs from its checksum.
        OSError: A file is missing or cannot be read.
        msgspec.DecodeError: The index is damaged.
    """
    entry = decode_json((folder / _INDEX).read_bytes(), _Entry)
    for name, file in entry.files.items():
        path = folder / name
        if path.stat().st_size != file.bytes or _checksum(path) != file.crc32:
            raise ValueError(f"{name} differs from its checksum")

    def array(name: str) -> npt.NDArray[Any]:
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    return CaseVolume(
        name=case.name,
        image=array("image"),
        labels=array("labels"),
        prompts=tuple(t.prompt for t in case.targets),
        left_right=entry.left_right,
        overlaps={index: array(f"overlap{index}") for index in entry.overlaps},
    )


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
