"""Read and write checkpoints: folders with `config.json` and `weights.safetensors`, without pickles."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_runtime.errors import CheckpointError
from gcis_runtime.schema_version import refuse_newer
from gcis_runtime.spec import PreprocessSpec, WindowSpec, check_padding
from gcis_runtime.system.atomic_files import replacing_folder
from gcis_runtime.system.json_files import decode_json
from gcis_train.nets.config import PUBLISHED_TEXT_WEIGHTS, NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.weights import stored_values
from gcis_train.weights.prompt_errors import unknown_prompt

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
SCHEMA_VERSION: Final = 1
POINTER_FILE = "checkpoint.json"
"""File of a run folder that names its best and its latest checkpoint."""

_OTHER_CHECKPOINT = "Copy the checkpoint again, or choose another one."


CheckpointKind = Literal["routed", "static", "encoder"]


class PromptEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt of the prompt table with its text embedding (text_dim floats; empty if unknown)."""

    prompt: str
    embedding: tuple[float, ...] = ()


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Contents of `config.json`.

    Attributes:
        kind: `"routed"`; `"static"` with `path_selections` (counted from 1), one per prompt or a single
            one without a prompt; `"encoder"`, weights to initialise a training.
        preprocess: Preprocessing; None if imported weights do not specify it.
        window: Sliding window; None if imported weights do not specify it.
        prompts: The prompt table.
        text_model: open_clip model of the embeddings.
        text_weights: Weights of that model; `"random (seed N)"` for random ones; `"unknown"` accepts any.
        provenance: Notes on data, run and source.
    """

    schema: Literal["gcis-checkpoint"] = "gcis-checkpoint"
    schema_version: Literal[1] = SCHEMA_VERSION
    kind: CheckpointKind
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
    """A checkpoint in memory.

    Attributes:
        config: Contents of `config.json`.
        weights: Tensors by parameter name.
        sha256: SHA-256 of the weights file.
        folder: Folder of the checkpoint.
        notes: Notes for the user on properties that `config.json` does not record.
    """

    config: CheckpointConfig
    weights: dict[str, Tensor]
    sha256: str
    folder: Path
    notes: tuple[str, ...] = ()

    @property
    def text_weights(self) -> str:
        """Text weights that the routers expect; those of the publication for imported routed weights."""
        recorded = self.config.text_weights
        imported = self.config.provenance.get("source_kind") == "gcis-routed"
        return PUBLISHED_TEXT_WEIGHTS if imported and recorded == "unknown" else recorded

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts of the prompt table."""
        return tuple(entry.prompt for entry in self.config.prompts)

    @property
    def untrained_prompts(self) -> tuple[str, ...]:
        """Prompts that `gcis-train upcycle` added, and that no training has used since."""
        return tuple(self.config.provenance.get("untrained_prompts", ()))

    @property
    def trained_prompts(self) -> tuple[str, ...]:
        """Prompts with an embedding that the network was trained with."""
        new = self.untrained_prompts
        return tuple(e.prompt for e in self.config.prompts if e.embedding and e.prompt not in new)

    def embedding(self, prompt: str) -> Tensor:
        """Return the (text_dim,) embedding of a prompt.

        Raises:
            PromptError: The prompt table has no embedding of the prompt.
        """
        for entry in self.config.prompts:
            if entry.prompt == prompt and entry.embedding:
                return torch.tensor(entry.embedding, dtype=torch.float32)
        raise unknown_prompt(prompt, self.prompts)

    def routed(self) -> GcisNet:
        """Return the routed network in evaluation mode.

        Raises:
            CheckpointError: The checkpoint is static or contains only an encoder.
        """
        if self.config.kind != "routed":
            raise CheckpointError(
                f"{self.folder} contains a network of another kind",
                received=self.config.kind,
                expected="routed",
                fix="Use a checkpoint of gcis-train pretrain.",
            )
        net = GcisNet(self.config.network)
        self.load_into(net)
        return net.eval()

    def static(self) -> StaticGcisNet:
        """Return the static network of a static checkpoint, in evaluation mode.

        Raises:
            CheckpointError: The checkpoint is routed or contains only an encoder.
        """
        if self.config.kind != "static":
            raise CheckpointError(
                f"{self.folder} contains a network of another kind",
                received=self.config.kind,
                expected="static",
                fix="Use a checkpoint of gcis-train warmstart or finetune --prompt.",
            )
        paths = [Pathway(tuple(n - 1 for n in one_based)) for one_based in self.config.path_selections]
        net = StaticGcisNet(self.config.network, paths)
        self.load_into(net)
        return net.eval()

    def load_into(self, net: torch.nn.Module) -> None:
        """Copy the weights into a network.

        Raises:
            CheckpointError: Names, shapes or patch merging differ from those of the network.
        """
        merging = self.config.network.merging
        if isinstance(net, GcisNet | StaticGcisNet) and net.config.merging != merging:
            raise CheckpointError(
                f"the weights in {self.folder} were trained with another patch merging than the network has",
                received=merging,
                expected=net.config.merging,
                fix=f"Set --merging {merging}.",
            )
        try:
            net.load_state_dict(self.weights)
        except RuntimeError as error:
            received = " ".join(str(error).split())
            raise CheckpointError(
                f"the weights in {self.folder} do not fit the network",
                received=received if len(received) < 300 else f"{received[:300]}…",
                expected="the network that its config.json describes",
                fix=_OTHER_CHECKPOINT,
            ) from error


def find(path: Path, *, prefer: Literal["best", "latest"] = "best") -> Path:
    """Return the checkpoint folder for a path: the path itself, or the checkpoint that a run folder names.

    Raises:
        CheckpointError: The path is neither a checkpoint nor a run folder with one.
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
    """Return the checkpoints of a run folder by role; empty if there are none."""
    try:
        return decode_json((run_dir / POINTER_FILE).read_bytes(), dict[str, str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def load(path: Path, *, prefer: Literal["best", "latest"] = "best") -> Checkpoint:
    """Read a checkpoint folder, or the best or latest checkpoint of a run folder.

    Raises:
        CheckpointError: The checkpoint is missing or damaged, or has a different schema.
    """
    folder = find(path, prefer=prefer)
    notes: tuple[str, ...] = ()
    try:
        data = (folder / CONFIG_FILE).read_bytes()
        refuse_newer(str(folder), data, SCHEMA_VERSION, CheckpointError)
        config = decode_json(data, CheckpointConfig)
        if stored_values.lacks_merging(data):
            network = msgspec.structs.replace(config.network, merging=stored_values.IMPORTED_MERGING)
            config = msgspec.structs.replace(config, network=network)
            notes = (stored_values.assumed_merging(folder.name),)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} cannot be read", received=str(error), fix=_OTHER_CHECKPOINT
        ) from error
    file = folder / WEIGHTS_FILE
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read", received=str(error), fix=_OTHER_CHECKPOINT) from error
    stored_values.refuse_non_finite(weights, file)
    return Checkpoint(config=config, weights=weights, sha256=hash_file(file), folder=folder, notes=notes)


def save(
    folder: Path, config: CheckpointConfig, weights: dict[str, Tensor], extra: dict[str, bytes] | None = None
) -> None:
    """Write a checkpoint folder atomically.

    Args:
        folder: Folder to write; replaced if it exists.
        config: Contents of `config.json`.
        weights: Tensors by parameter name.
        extra: Contents of further files by name.

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
    except (OSError, SafetensorError) as error:  # safetensors raises its own error when the disk is full
        raise CheckpointError(
            f"{folder} cannot be written",
            received=getattr(error, "strerror", None) or str(error),
            fix="Free space or choose another folder; earlier checkpoints are intact.",
        ) from error


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def prompt_table(prompts: Sequence[str], embeddings: Tensor) -> tuple[PromptEntry, ...]:
    """Return the prompt table for prompts and their (P, text_dim) embeddings."""
    values = embeddings.to(torch.float32).numpy().astype(np.float64)
    return tuple(
        PromptEntry(prompt=p, embedding=tuple(row.tolist())) for p, row in zip(prompts, values, strict=True)
    )
