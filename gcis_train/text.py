"""Text embeddings of prompts, from open_clip's text tower alone."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcis_runtime.errors import CheckpointError, PromptError

CONTEXT = 77
RANDOM = "random"


class TextEncoder:
    """A CLIP text tower that turns prompts into embeddings.

    Args:
        model: open_clip model name.
        weights: A weights tag (`"openai"`), a local file, or `"random"`: the same architecture with
            seeded weights, for machines that can't have the real ones. Embeddings are then distinct for
            distinct prompts and mean nothing.
        seed: Seed of random weights.

    Raises:
        CheckpointError: Unknown model, or weights that cannot be had or read.
    """

    def __init__(self, model: str, weights: str, *, seed: int = 0) -> None:
        self._open_clip = _import_open_clip()
        self.model = model
        self.weights = f"random (seed {seed})" if weights == RANDOM else _described(weights)
        if self._open_clip.get_model_config(model) is None:
            raise CheckpointError(f"open_clip has no model {model!r}", fix="See open_clip.list_models().")
        self._tower = self._random(seed) if weights == RANDOM else self._pretrained(weights)
        self._tokenizer = self._open_clip.get_tokenizer(model)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        config: dict[str, Any] = self._open_clip.get_model_config(self.model)
        return int(config["embed_dim"])

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return (N, dim) float32 embeddings, not normalised.

        Raises:
            PromptError: An empty prompt, or one longer than the tower reads.
        """
        for prompt in prompts:
            self._check(prompt)
        with torch.no_grad():
            embeddings: Tensor = self._tower(self._tokenizer(list(prompts))).float()
        return embeddings

    def _check(self, prompt: str) -> None:
        if not prompt.strip():
            raise PromptError("a prompt is empty", fix="Name the structure in words.")
        tokens = len(self._tokenizer.encode(prompt)) + 2  # start and end
        if tokens > CONTEXT:
            raise PromptError(
                f"the prompt {prompt[:40]!r}… is too long for the text tower",
                received=f"{tokens} tokens",
                expected=f"at most {CONTEXT}",
                fix="Shorten it: it would be cut silently.",
            )

    def _random(self, seed: int) -> nn.Module:
        config = self._open_clip.get_model_config(self.model)
        module = importlib.import_module("open_clip.model")
        state = torch.random.get_rng_state()
        try:
            torch.manual_seed(seed)
            tower: nn.Module = module._build_text_tower(
                config["embed_dim"], config["text_cfg"], config.get("quick_gelu", False)
            )
        finally:
            torch.random.set_rng_state(state)
        return tower.eval()

    def _pretrained(self, weights: str) -> nn.Module:
        try:
            with _quiet(), _offline_if_unreachable():
                clip = self._open_clip.create_model(
                    self.model, pretrained=weights, force_custom_text=True, weights_only=True
                )
        except Exception as error:
            raise CheckpointError(
                f"the text weights {weights!r} of {self.model} cannot be had",
                received=str(error).splitlines()[0][:200],
                expected="a weights tag that open_clip can download, or a local weights file",
                fix="Give --clip-weights FILE, or --clip-weights random for a run whose router cannot "
                "generalise to new prompts.",
            ) from error
        tower: nn.Module = clip.text
        return tower.eval()


def _described(weights: str) -> str:
    """Return what the checkpoint records: a tag, or a file's name without its folder."""
    return Path(weights).name if Path(weights).is_file() else weights


def _import_open_clip() -> Any:
    """Import open_clip, also where torchvision's compiled operators do not fit the torch build.

    torchvision from the package index is built against CUDA; beside a CPU build of torch its compiled part
    does not load, and importing it fails on two detection operators that no text tower needs.
    Declaring their signatures lets the rest import.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("open_clip")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared by an earlier attempt
            torch.library.define(f"torchvision::{name}", signature)
    return importlib.import_module("open_clip")


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Look in the download cache only where the weights' host does not answer.

    The downloader would try several names with growing pauses: 50 s until the error, for nothing.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    """Tell whether a host takes connections; behind a proxy only the attempt itself can tell."""
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
    """Silence the downloader's retries: the error that follows says what matters."""
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
