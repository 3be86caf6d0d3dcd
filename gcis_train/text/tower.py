"""Compute text embeddings of prompts with the text tower of open_clip models."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.weights.pickles import is_torchscript, load_pickle
from gcis_train.weights.stored_values import refuse_non_finite

RANDOM = "random"
_QUICK = "-quickgelu"


class TextEncoder:
    """CLIP text tower that computes the embeddings of prompts; the image tower is not created.

    Args:
        model: open_clip model name.
        weights: A weights tag (`"openai"`), a local file (no network access), or `"random"`: the same
            architecture with seeded weights, for machines without access to pretrained ones. Random
            embeddings differ between prompts but carry no meaning.
        seed: Seed of random weights.

    Raises:
        CheckpointError: The model is unknown or does not use the tokenizer of CLIP, or the weights are not
            available or cannot be read.
    """

    def __init__(self, model: str, weights: str, *, seed: int = 0) -> None:
        self._open_clip = _import_open_clip()
        self.model = model
        self.weights = described(weights, seed=seed)
        self._config = self._read_config(model)
        self._tower = self._random(seed) if weights == RANDOM else self._pretrained(weights)
        self._tokenizer = self._open_clip.get_tokenizer(model)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self._config["embed_dim"])

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return (N, dim) float32 embeddings, not normalised.

        Raises:
            PromptError: A prompt is empty or exceeds the context length.
        """
        for prompt in prompts:
            self._check(prompt)
        with torch.no_grad():
            embeddings: Tensor = self._tower(self._tokenizer(list(prompts))).float()
        return embeddings

    def _check(self, prompt: str) -> None:
        if not prompt.strip():
            raise PromptError("a prompt is empty", received=repr(prompt), fix="Pass the name of a structure.")
        tokens = len(self._tokenizer.encode(prompt)) + 2  # start and end tokens
        if tokens > self._tokenizer.context_length:
            raise PromptError(
                f"the prompt {prompt[:40]!r}… is too long for the text tower",
                received=f"{tokens} tokens",
                expected=f"at most {self._tokenizer.context_length}",
                fix="Shorten the prompt; CLIP would truncate it silently.",
            )

    def _read_config(self, model: str) -> dict[str, Any]:
        config: dict[str, Any] | None = self._open_clip.get_model_config(model)
        if config is None:
            raise CheckpointError(
                f"open_clip has no model {model!r}",
                expected="a model name such as ViT-B-32-quickgelu",
                fix="See open_clip.list_models().",
            )
        foreign = {"hf_model_name", "hf_tokenizer_name"} & config["text_cfg"].keys()
        if foreign or "siglip" in model.lower():  # other tokenizers must be downloaded
            raise CheckpointError(
                f"the text model {model} does not use the tokenizer of CLIP",
                expected="a CLIP model such as ViT-B-32-quickgelu or ViT-L-14",
                fix="Choose another --text-model.",
            )
        return config

    def _random(self, seed: int) -> nn.Module:
        module = importlib.import_module("open_clip.model")
        state = torch.random.get_rng_state()
        try:
            torch.manual_seed(seed)
            tower: nn.Module = module._build_text_tower(
                self._config["embed_dim"], self._config["text_cfg"], self._config.get("quick_gelu", False)
            )
        finally:
            torch.random.set_rng_state(state)
        return tower.eval()

    def _pretrained(self, weights: str) -> nn.Module:
        """Return the text tower with weights from a file or a tag."""
        try:
            state = read_text_tower(Path(weights) if Path(weights).is_file() else self._download(weights))
            tower = self._random(0)
            tower.load_state_dict(state)
        except Exception as error:
            raise CheckpointError(
                f"the text weights {weights!r} of {self.model} are not available",
                received=_first_line(error),
                expected="a weights tag that open_clip can download, or a local weights file of this model",
                fix="Pass --clip-weights FILE, or --clip-weights random for a run whose routers do not "
                "generalise to new prompts.",
            ) from error
        return tower

    def _download(self, tag: str) -> Path:
        """Return the file of a weights tag, from the download cache or the network."""
        module = importlib.import_module("open_clip.pretrained")
        known: dict[str, Any] = module.get_pretrained_cfg(self.model, tag)
        if not known:
            tags = ", ".join(module.list_pretrained_tags_by_model(self.model)) or "none"
            raise ValueError(f"neither a file nor a tag of this model ({tags})")
        if known.get("quick_gelu", False) != self._config.get("quick_gelu", False):
            other = self.model.removesuffix(_QUICK) if self.model.endswith(_QUICK) else self.model + _QUICK
            raise ValueError(f"the weights require a different activation function: use the model {other}")
        with _quiet(), _offline_if_unreachable():
            return Path(module.download_pretrained(known))


def described(weights: str, *, seed: int) -> str:
    """Return the record of text weights in files: the tag, the file name without folder, or the seed."""
    return f"{RANDOM} (seed {seed})" if weights == RANDOM else Path(weights).name


def published_sha256(model: str, tag: str) -> str | None:
    """Return the beginning of the SHA-256 of the file of a tag, from the table of open_clip; None if unknown.

    Addresses in the table contain the hash: the last folder, or 8 digits at the end of the file name.
    """
    _import_open_clip()
    known: dict[str, Any] = importlib.import_module("open_clip.pretrained").get_pretrained_cfg(model, tag)
    found = re.search(r"/([0-9a-f]{64})/[^/]+$|-([0-9a-f]{8})\.\w+$", known.get("url", "") if known else "")
    return (found[1] or found[2]) if found else None


def read_text_tower(file: Path) -> dict[str, Tensor]:
    """Return the tensors of the text tower in a CLIP weights file, by parameter name of the tower.

    Args:
        file: safetensors, or a pickle of tensors (read with `weights_only`), with open_clip parameter names
            at the top level or below `text.`. TorchScript archives, as published by OpenAI, are refused,
            because loading one runs the code in it.

    Raises:
        ValueError: The file has no text tower, or is damaged.
        CheckpointError: A tensor is not finite.
        OSError, pickle.UnpicklingError, SafetensorError: The file cannot be read.
    """
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as data:
            wanted = {name: _text_name(name) for name in data.keys()}  # noqa: SIM118 (not a mapping)
            tower = {ours: data.get_tensor(name) for name, ours in wanted.items() if ours}
    else:
        state = _read_pickle(file)
        tower = {ours: tensor for name, tensor in state.items() if (ours := _text_name(name))}
    if not tower:
        raise ValueError("no text tower in the file")
    refuse_non_finite(tower, file)
    return {name: tensor.float() for name, tensor in tower.items()}


def _read_pickle(file: Path) -> dict[str, Tensor]:
    if is_torchscript(file):
        raise ValueError("a TorchScript archive, whose code would run; save its state_dict() as .safetensors")
    tree = load_pickle(file)
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _text_name(name: str) -> str | None:
    """Return the name of a tensor in the text tower; None if it does not belong to the text tower."""
    name = name.removeprefix("module.")
    if name.startswith("text."):
        return name.removeprefix("text.")
    return name if _TOP.match(name) else None


_TOP = re.compile(r"(token_embedding|positional_embedding|transformer|ln_final|text_projection)\b")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _import_open_clip() -> Any:
    """Import open_clip, also if the compiled operators of torchvision do not match the torch build.

    torchvision from the package index is built for CUDA. With a CPU build of torch, its compiled part does
    not load, and the import fails at two detection operators that the text tower does not use. Declaring
    their signatures makes the import succeed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("open_clip")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared by an earlier call
            torch.library.define(f"torchvision::{name}", signature)
    return importlib.import_module("open_clip")


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Restrict downloads to the download cache if the host of the weights is not reachable.

    The downloader would otherwise retry with increasing delays and fail after 50 s.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    """Return whether a host accepts connections; always True behind a proxy, where a test is not possible."""
    if urllib.request.getproxies():
        return True
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=5.0):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of the downloader about retries; a failure raises an error."""
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
