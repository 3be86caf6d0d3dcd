"""A bundle folder, opened: manifest understood, paths safe, every hash checked before anything is loaded."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gcis_runtime.bundles.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry, Label, Manifest, decode
from gcis_runtime.bundles.onnx_external_data import check_references
from gcis_runtime.errors import BundleError, PromptError

_MAX_MANIFEST_BYTES = 4 << 20
"""Real ones have thousands; JSON values take up to forty times their text in memory."""
_FIX = "Export it again, or fetch it again if it was copied."


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose manifest was understood and whose files were verified. Made by `open_bundle`.

    Attributes:
        folder: Where it lies.
        manifest: What it says.
        sha256: Hash of `manifest.json`, which names the hash of every file: it identifies the whole bundle.
    """

    folder: Path
    manifest: Manifest
    sha256: str

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    @property
    def model_file(self) -> Path:
        """Path of the ONNX graph."""
        return self.folder / MODEL_FILE

    def file(self, path: str) -> Path:
        """Return where a listed file lies, such as a graph's or an engine's.

        Raises:
            BundleError: The manifest does not list it: nobody has checked it.
        """
        return safe_path(self.folder, self.manifest.entry(path).path)

    @property
    def size(self) -> int:
        """Bytes of all files that the manifest lists."""
        return sum(entry.bytes for entry in self.manifest.files)


def open_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder and verify it completely.

    Args:
        folder: A folder with `manifest.json`.

    Raises:
        BundleError: Missing, not a bundle, another schema, an unsafe path, a file that differs, or a graph
            whose weights lie in a file that the manifest does not list.
    """
    folder = Path(folder)
    manifest, digest = read_manifest(folder)
    for entry in manifest.files:
        verify_file(folder, entry)
    for graph in manifest.graphs:
        check_references(folder, graph.file, listed=[entry.path for entry in manifest.files])
    return Bundle(folder=folder, manifest=manifest, sha256=digest)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Read a bundle's manifest and its hash, without looking at the other files.

    Raises:
        BundleError: No such folder, no manifest, or one that this version does not understand.
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
        raise BundleError(f"{path} is implausibly large", received=f"{size} bytes", fix=_FIX)
    data = path.read_bytes()
    return decode(data, source=str(path)), hashlib.sha256(data).hexdigest()


def verify_file(folder: Path, entry: FileEntry) -> Path:
    """Check one file's path, size and hash, and return where it lies.

    Raises:
        BundleError: The path leaves the bundle, or the file is missing or not the one that was exported.
    """
    path = safe_path(folder, entry.path)
    if not path.is_file():
        raise BundleError(f"{folder} lacks a file", expected=entry.path, fix=_FIX)
    size = path.stat().st_size
    if size != entry.bytes:
        raise BundleError(
            f"{path} has another size", received=f"{size} bytes", expected=f"{entry.bytes} bytes", fix=_FIX
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
    """Join a path from a manifest to its folder; symbolic links may not lead out either.

    Raises:
        BundleError: Absolute, with `..`, a drive, a backslash, or leading out of the folder.
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
    """Tell whether a path stays in a folder when links are followed; one that no file can have does not."""
    try:
        path.exists()  # raises what resolving leaves for later
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a name too long, links in a circle, a zero byte
        return False


def select_labels(manifest: Manifest, prompts: Sequence[str]) -> tuple[int, ...]:
    """Return the graph channels of the named structures, in the manifest's order; all when none is named.

    Args:
        manifest: The bundle's manifest.
        prompts: Prompts or structure names; case and outer blanks do not matter.

    Raises:
        PromptError: A prompt that the bundle was not exported with; lists the known and the nearest.
    """
    if isinstance(prompts, str):  # a sequence of texts too: its letters
        raise PromptError(
            "the prompts are one text", received=repr(prompts), expected="a list", fix=f"Pass [{prompts!r}]."
        )
    if not prompts:
        return tuple(range(len(manifest.labels)))
    chosen = set()
    for prompt in prompts:
        found = [
            i
            for i, label in enumerate(manifest.labels)
            if _key(prompt) in (_key(label.prompt), _key(label.name))
        ]
        if not found:
            raise unknown_prompt(prompt, manifest.labels, where=f"bundle {manifest.name!r}")
        chosen.update(found)
    return tuple(sorted(chosen))


def unknown_prompt(prompt: str, labels: Sequence[Label], *, where: str) -> PromptError:
    """Make the error for a prompt that is in none of `labels`, with the known and the nearest ones."""
    known = list(dict.fromkeys(label.prompt for label in labels))
    near = difflib.get_close_matches(_key(prompt), [_key(name) for name in known], n=3, cutoff=0.5)
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
