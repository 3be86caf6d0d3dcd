"""Open a bundle folder: read the manifest, check paths, and verify the hash of every file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gcis_runtime.bundles.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry, Label, Manifest, decode
from gcis_runtime.bundles.onnx_external_data import check_references
from gcis_runtime.errors import BundleError, PromptError
from gcis_runtime.structures.match import match_prompt, nearest_prompts

_MAX_MANIFEST_BYTES = 4 << 20
"""Manifests have a few thousand bytes. Decoded JSON takes up to 40 times the memory of its text."""
_FIX = "Export it again, or fetch it again if it was copied."


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose manifest is valid and whose files were verified; see `open_bundle`.

    Attributes:
        folder: Folder of the bundle.
        manifest: The decoded manifest.
        sha256: SHA-256 hash of `manifest.json`. It identifies the whole bundle, since the manifest contains
            the hash of every file.
    """

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.manifest.name

    @property
    def model_file(self) -> Path:
        """Path of the ONNX graph."""
        return self.folder / MODEL_FILE

    def file(self, path: str) -> Path:
        """Return the path of a file that the manifest lists, such as a graph or an engine.

        Raises:
            BundleError: The manifest does not list the file, so that it was not verified.
        """
        return safe_path(self.folder, self.manifest.entry(path).path)

    @property
    def size(self) -> int:
        """Total size of the listed files in bytes."""
        return sum(entry.bytes for entry in self.manifest.files)


def open_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder and verify all its files.

    Args:
        folder: A folder with `manifest.json`.

    Raises:
        BundleError: The folder is missing or not a bundle, the schema is unknown, a path is unsafe, a file
            differs, or a graph has weights in a file that the manifest does not list.
    """
    folder = Path(folder)
    manifest, digest = read_manifest(folder)
    for entry in manifest.files:
        verify_file(folder, entry)
    for graph in manifest.graphs:
        check_references(folder, graph.file, listed=[entry.path for entry in manifest.files])
    return Bundle(folder=folder, manifest=manifest, sha256=digest)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest of a bundle and its SHA-256 hash, without reading the other files.

    Raises:
        BundleError: The folder or the manifest is missing, or this version cannot decode the manifest.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        what = "is not a bundle" if folder.is_dir() else "does not exist"
        raise BundleError(
            f"bundle {folder} {what}",
            expected=f"a folder with {MANIFEST_FILE}",
            fix="`gcis-bundle list` shows the installed ones.",
        )
    size = path.stat().st_size
    if size > _MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{path} is implausibly large",
            received=f"{size} bytes",
            expected=f"at most {_MAX_MANIFEST_BYTES} bytes",
            fix=_FIX,
        )
    data = path.read_bytes()
    return decode(data, source=str(path)), hashlib.sha256(data).hexdigest()


def verify_file(folder: Path, entry: FileEntry) -> Path:
    """Check the path, size and hash of a file, and return its path.

    Raises:
        BundleError: The path is outside the bundle, or the file is missing or differs from the exported one.
    """
    path = safe_path(folder, entry.path)
    if not path.is_file():
        raise BundleError(f"{folder} lacks a file", received="no such file", expected=entry.path, fix=_FIX)
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"{path} has a different size",
            received=f"{size} bytes",
            expected=f"{entry.bytes} bytes",
            fix=_FIX,
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise BundleError(
            f"{path} is not the file that was exported",
            received=f"sha256 {digest[:12]}…",
            expected=f"{entry.sha256[:12]}…",
            fix=_FIX,
        )
    return path


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


def select_labels(manifest: Manifest, prompts: Sequence[str]) -> tuple[int, ...]:
    """Return the graph channels of structures in the order of the manifest; all channels without prompts.

    Args:
        manifest: The bundle's manifest.
        prompts: Prompts, structure names, or aliases, translations and SNOMED CT codes of them; case and
            spaces are ignored.

    Raises:
        PromptError: The bundle was not exported with a prompt, or several of its prompts match. The message
            lists known and similar prompts.
    """
    if isinstance(prompts, str):  # a string is also a sequence of strings
        raise PromptError(
            "the prompts are a single string",
            received=repr(prompts),
            expected="a list",
            fix=f"Pass [{prompts!r}].",
        )
    if not prompts:
        return tuple(range(len(manifest.labels)))
    chosen = set()
    for prompt in prompts:
        chosen.update(_channels_of(prompt, manifest))
    return tuple(sorted(chosen))


def alias_notes(manifest: Manifest, prompts: Sequence[str]) -> tuple[str, ...]:
    """Return a note for each prompt that is an alias of a structure, naming the structure.

    Args:
        manifest: The bundle's manifest.
        prompts: Prompts that `select_labels` accepts.
    """
    notes = []
    for prompt in prompts:
        labels = [manifest.labels[i] for i in _channels_of(prompt, manifest)]
        if not any(_key(prompt) in (_key(label.prompt), _key(label.name)) for label in labels):
            notes.append(f"{prompt!r} is the prompt {labels[0].prompt!r} of the bundle")
    return tuple(notes)


def _channels_of(prompt: str, manifest: Manifest) -> list[int]:
    """Return the channels that a prompt denotes: by its own name, else by an alias."""
    found = [
        i for i, label in enumerate(manifest.labels) if _key(prompt) in (_key(label.prompt), _key(label.name))
    ]
    if not found:
        channel = match_prompt(str(prompt), [(label.prompt, label.name) for label in manifest.labels])
        if channel is None:
            raise unknown_prompt(prompt, manifest.labels, where=f"bundle {manifest.name!r}")
        found = [channel]
    return found


def unknown_prompt(prompt: str, labels: Sequence[Label], *, where: str) -> PromptError:
    """Return the error for a prompt that is in none of `labels`; it lists known and similar prompts."""
    known = list(dict.fromkeys(label.prompt for label in labels))
    near = nearest_prompts(str(prompt), known)
    fix = (
        f"Did you mean {' or '.join(map(repr, near))}?"
        if near
        else "Choose one of these, or export it with gcis-export."
    )
    return PromptError(
        f"{where} has no such prompt",
        received=repr(prompt),
        expected="one of " + ", ".join(map(repr, known)) if known else None,
        fix=fix,
    )


def _key(text: object) -> str:
    return " ".join(str(text).casefold().split())
