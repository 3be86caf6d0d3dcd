"""Checkpoints: a folder with `config.json` and `weights.safetensors`; no pickle is written."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_runtime.errors import CheckpointError, PromptError
from gcis_runtime.spec import PreprocessSpec, WindowSpec, check_padding
from gcis_runtime.system.atomic_files import replacing_folder
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
POINTER_FILE = "checkpoint.json"
"""In a run folder: says which of its checkpoints is the best and which the latest."""


class PromptEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt that the checkpoint knows, with its text embedding (text_dim floats)."""

    prompt: str
    embedding: tuple[float, ...] = ()


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `config.json` holds.

    Attributes:
        kind: `"routed"`; `"static"` with `path_selections` (counted from 1), one for each prompt or a single
            one without a prompt; `"encoder"`, weights to start a training from.
        preprocess: None when imported weights do not say theirs.
        window: None when imported weights do not say theirs.
        prompts: The prompt table.
        text_model: open_clip model of the embeddings.
        text_weights: Its weights; `"random (seed N)"` when seeded.
        provenance: Notes on data, run and source.
    """

    schema: Literal["gcis-checkpoint"] = "gcis-checkpoint"
    schema_version: Literal[1] = 1
    kind: Literal["routed", "static", "encoder"]
    network: NetworkConfig
    preprocess: PreprocessSpec | None = None
    window: WindowSpec | None = None
    prompts: tuple[PromptEntry, ...] = ()
    path_selections: tuple[tuple[int, ...], ...] = ()
    text_model: str = "ViT-B-32-quickgelu"
    text_weights: str = "unknown"
    provenance: dict[str, Any] = {}

    def __post_init__(self) -> None:
        for selection in self.path_selections:
            fits = all(1 <= n <= self.network.pathways for n in selection)
            if len(selection) != len(POSITIONS) or not fits:
                raise ValueError(
                    f"path selection {selection} is not {len(POSITIONS)} numbers "
                    f"from 1 to {self.network.pathways}"
                )
        if self.preprocess is not None and self.window is not None:
            check_padding(self.preprocess, self.window)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory: its configuration, weights by our names, and the file's hash."""

    config: CheckpointConfig
    weights: dict[str, Tensor]
    sha256: str
    folder: Path

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the table."""
        return tuple(entry.prompt for entry in self.config.prompts)

    def embedding(self, prompt: str) -> Tensor:
        """Return the (text_dim,) embedding of a prompt of the table.

        Raises:
            PromptError: The prompt is not in the table.
        """
        for entry in self.config.prompts:
            if entry.prompt == prompt and entry.embedding:
                return torch.tensor(entry.embedding, dtype=torch.float32)
        raise unknown_prompt(prompt, self.prompts)

    def routed(self) -> GcisNet:
        """Return the routed network in evaluation mode.

        Raises:
            CheckpointError: The checkpoint is static or holds an encoder only.
        """
        if self.config.kind != "routed":
            raise CheckpointError(
                f"{self.folder} holds a network of another kind",
                received=self.config.kind,
                expected="routed",
                fix="Use a pretrained checkpoint.",
            )
        net = GcisNet(self.config.network)
        self.load_into(net)
        return net.eval()

    def static(self) -> StaticGcisNet:
        """Return the static network of a static checkpoint, in evaluation mode.

        Raises:
            CheckpointError: The checkpoint is routed or holds an encoder only.
        """
        if self.config.kind != "static":
            raise CheckpointError(
                f"{self.folder} holds a network of another kind", received=self.config.kind, expected="static"
            )
        paths = [Pathway(tuple(n - 1 for n in one_based)) for one_based in self.config.path_selections]
        net = StaticGcisNet(self.config.network, paths)
        self.load_into(net)
        return net.eval()

    def load_into(self, net: torch.nn.Module) -> None:
        """Put the weights into a network.

        Raises:
            CheckpointError: They are not exactly this network's.
        """
        try:
            net.load_state_dict(self.weights)
        except RuntimeError as error:
            received = " ".join(str(error).split())
            raise CheckpointError(
                f"the weights in {self.folder} do not fit the network",
                received=received if len(received) < 300 else f"{received[:300]}…",
                expected="the network that its config.json describes",
            ) from error


def unknown_prompt(prompt: str, known: tuple[str, ...]) -> PromptError:
    """Return the error for a prompt that has no stored embedding, with the nearest known ones."""
    near = difflib.get_close_matches(prompt, known, n=3, cutoff=0.4)
    listing = ", ".join(repr(p) for p in known) or "none"
    hint = f" Nearest: {', '.join(repr(p) for p in near)}." if near else ""
    return PromptError(
        "the checkpoint has no text embedding of this prompt",
        received=repr(prompt),
        expected=f"one of {listing}",
        fix="Choose one of these, give the CLIP weights with --clip-weights, or name the pathway with "
        f"--path-selection.{hint}",
    )


def find(path: Path, *, prefer: Literal["best", "latest"] = "best") -> Path:
    """Return the checkpoint folder that `path` means: itself, or the one a run folder points to.

    Raises:
        CheckpointError: Neither a checkpoint nor a run folder with one.
    """
    if (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file():
        return path
    pointer = read_pointer(path)
    name = pointer.get(prefer) or pointer.get("latest")
    if name and (path / name / CONFIG_FILE).is_file():
        return path / name
    raise CheckpointError(
        f"{path} is not a checkpoint",
        expected=f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a run folder",
        fix="Train one with gcis-train pretrain, or import published weights with gcis-train import.",
    )


def read_pointer(run_dir: Path) -> dict[str, str]:
    """Return a run folder's checkpoints by role; empty where there are none."""
    try:
        return msgspec.json.decode((run_dir / POINTER_FILE).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def load(path: Path, *, prefer: Literal["best", "latest"] = "best") -> Checkpoint:
    """Read a checkpoint or the checkpoint of a run folder.

    Raises:
        CheckpointError: Missing, damaged, or of another schema.
    """
    folder = find(path, prefer=prefer)
    try:
        config = msgspec.json.decode((folder / CONFIG_FILE).read_bytes(), type=CheckpointConfig)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} cannot be read", received=str(error)) from error
    file = folder / WEIGHTS_FILE
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read", received=str(error)) from error
    return Checkpoint(config=config, weights=weights, sha256=hash_file(file), folder=folder)


def save(
    folder: Path, config: CheckpointConfig, weights: dict[str, Tensor], extra: dict[str, bytes] | None = None
) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        folder: Where; replaced if it exists.
        config: Contents of `config.json`.
        weights: State by our names.
        extra: Further files by name.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    try:
        with replacing_folder(folder) as temporary:
            tensors = {n: t.detach().cpu().contiguous().clone() for n, t in weights.items()}
            save_file(tensors, temporary / WEIGHTS_FILE)
            for name, data in (extra or {}).items():
                (temporary / name).write_bytes(data)
            (temporary / CONFIG_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=1))
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        raise CheckpointError(
            f"{folder} cannot be written",
            received=getattr(error, "strerror", None) or str(error),
            fix="Free space or choose another folder; what was saved before is intact.",
        ) from error


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def prompt_table(prompts: Sequence[str], embeddings: Tensor) -> tuple[PromptEntry, ...]:
    """Return the prompt table of prompts and their (N, text_dim) embeddings."""
    values = embeddings.to(torch.float32).numpy().astype(np.float64)
    return tuple(
        PromptEntry(prompt=p, embedding=tuple(row.tolist())) for p, row in zip(prompts, values, strict=True)
    )


def prune(folder: Path, *, keep: set[str]) -> None:
    """Remove checkpoints of a run that nothing points to.

    Args:
        folder: The run's `checkpoints` folder.
        keep: Names to keep, as `checkpoints/<name>`.
    """
    for found in folder.iterdir():
        if f"{folder.name}/{found.name}" not in keep:
            shutil.rmtree(found, ignore_errors=True)
