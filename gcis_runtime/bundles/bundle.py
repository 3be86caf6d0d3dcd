"""Open a bundle folder: read the manifest, check paths, and verify every file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gcis_runtime.bundles.contents import FIX, check_graph_file, read_listed, safe_path, verify_file
from gcis_runtime.bundles.manifest import MANIFEST_FILE, MODEL_FILE, Label, Manifest, decode
from gcis_runtime.bundles.onnx_graph import ExternalTensor
from gcis_runtime.bundles.onnx_weights import with_weights
from gcis_runtime.bundles.sealed_file import memory_file, sealed_path
from gcis_runtime.errors import BundleError, PromptError
from gcis_runtime.structures.match import match_prompt, nearest_prompts
from gcis_runtime.system.own_files import LinkError, NotPlainError, TooLargeError, read_small

_MAX_MANIFEST_BYTES = 4 << 20
"""Manifests have a few thousand bytes. Decoded JSON takes up to 40 times the memory of its text."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose manifest is valid and whose files were verified; see `open_bundle`.

    Attributes:
        folder: Folder of the bundle.
        manifest: The decoded manifest.
        sha256: SHA-256 hash of `manifest.json`. It identifies the whole bundle, since the manifest contains
            the hash of every file.
        external: Tensors with elements in other files, by the graph that has such tensors.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    external: Mapping[str, tuple[ExternalTensor, ...]] = field(default_factory=dict)

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

    def read(self, path: str) -> bytes:
        """Return the content of a listed file, whose hash was computed from the returned bytes.

        Raises:
            BundleError: The manifest does not list the file, or it is not the file that was exported.
        """
        return read_listed(self.folder, self.manifest.entry(path))

    def graph(self, path: str) -> bytes:
        """Return a listed graph as a verified, checked ONNX model that contains all its weights.

        Engines receive these bytes instead of a path, so that they read nothing that was not checked.

        Raises:
            BundleError: The graph or its weights are not those that were exported, or are refused.
        """
        data, external = self.read(path), self.external.get(path)
        return with_weights(data, external, self.read) if external else data

    @contextlib.contextmanager
    def graph_source(self, path: str) -> Iterator[str | bytes]:
        """Provide the same graph for loading, as the path of a sealed copy if possible, otherwise as bytes.

        Engines keep or copy bytes that they receive, but read a file piece by piece. The copy is hashed while
        it is written and cannot be changed afterwards; the path is valid inside the block only.

        Raises:
            BundleError: See `graph`.
        """
        with memory_file("gcis-graph") as copy:
            source: str | None = None
            if copy is not None and not self.external.get(path):
                with contextlib.suppress(OSError):  # a sandbox without seals
                    verify_file(self.folder, self.manifest.entry(path), copy)
                    source = sealed_path(copy)
            yield self.graph(path) if source is None else source

    def graph_key(self, path: str) -> str:
        """Return a key of everything that determines a graph: its hash and those of files with weights."""
        known = {graph.file for graph in self.manifest.graphs} | {e.file for e in self.manifest.engines}
        known -= {tensor.location for tensor in self.external.get(path, ())}
        others = sorted(f"{e.path} {e.sha256}" for e in self.manifest.files if e.path not in known)
        own = self.manifest.entry(path).sha256
        return own if not others else hashlib.sha256("\n".join([own, *others]).encode()).hexdigest()

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
            is a link or differs, or a graph contains what no exported network contains.
    """
    folder = Path(folder)
    manifest, digest = read_manifest(folder)
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    graphs = {graph.file for graph in manifest.graphs}
    external: dict[str, tuple[ExternalTensor, ...]] = {}
    for entry in manifest.files:
        if entry.path not in graphs:
            verify_file(folder, entry)
        elif found := check_graph_file(folder, entry, sizes):
            external[entry.path] = found
    return Bundle(folder=folder, manifest=manifest, sha256=digest, external=external)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest of a bundle and its SHA-256 hash, without reading the other files.

    Raises:
        BundleError: The folder or the manifest is missing, or this version cannot decode the manifest.
    """
    path = folder / MANIFEST_FILE
    try:
        data = read_small(path, most_bytes=_MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError, NotPlainError) as error:
        what = "is not a bundle" if folder.is_dir() else "does not exist"
        raise BundleError(
            f"bundle {folder} {what}",
            expected=f"a folder with {MANIFEST_FILE}",
            fix="`gcis-bundle list` shows the installed ones.",
        ) from error
    except (LinkError, TooLargeError) as error:
        raise BundleError(
            f"{path} is {'a link' if isinstance(error, LinkError) else 'implausibly large'}",
            received=error.strerror,
            expected=f"a plain file of at most {_MAX_MANIFEST_BYTES} bytes",
            fix=FIX,
        ) from error
    return decode(data, source=str(path)), hashlib.sha256(data).hexdigest()


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
