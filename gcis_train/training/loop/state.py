"""Pack and unpack the training state of a checkpoint: optimiser, scaler, random state and counters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gcis_runtime.errors import CheckpointError

STATE_FILE = "training_state.safetensors"
_RANDOM = "random."

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)
"""Errors of damaged states."""


def pack(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, counters: dict[str, Any]) -> bytes:
    """Return the state as safetensors data: tensors by parameter index, everything else as JSON metadata.

    The data includes the random state of torch. Windows and routing have their own seeds, but a network with
    dropout would depend on it.

    Args:
        optimizer: The optimiser.
        scaler: The gradient scaler.
        counters: Values that JSON can represent.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {f"{_RANDOM}cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors[f"{_RANDOM}cuda"] = torch.cuda.get_rng_state()
    for index, entry in state["state"].items():
        for name, value in entry.items():
            tensors[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    notes = {"groups": json.dumps(state["param_groups"]), "counters": json.dumps(counters)}
    notes["scaler"] = json.dumps(scaler.state_dict())
    return bytes(save(tensors, metadata=notes))


def unpack(data: bytes, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """Restore a packed state into the optimiser, the scaler and the random generators of torch.

    Learning rates and other settings of the optimiser are kept, because a run may be resumed with other
    options.

    Returns:
        The counters.

    Raises:
        CheckpointError: The data is damaged or belongs to another network.
    """
    state: dict[int, dict[str, Tensor]] = {}
    random: dict[str, Tensor] = {}
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        notes: dict[str, str] = header["__metadata__"]
        for key, tensor in load(data).items():
            if key.startswith(_RANDOM):
                random[key.removeprefix(_RANDOM)] = tensor
                continue
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = tensor
        own = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        optimizer.load_state_dict({"state": state, "param_groups": json.loads(notes["groups"])})
        for group, options in zip(optimizer.param_groups, own, strict=True):
            group.update(options)
        scaler_state = json.loads(notes["scaler"])
        if scaler_state and scaler.is_enabled():
            scaler.load_state_dict(scaler_state)
        if "cpu" in random:
            torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        counters: dict[str, Any] = json.loads(notes["counters"])
    except _DAMAGE as error:
        raise CheckpointError(
            "the training state is damaged or belongs to another network",
            received=str(error),
            fix="Choose another --run-dir.",
        ) from error
    return counters


def read(folder: Path) -> bytes:
    """Return the packed state of a checkpoint.

    Raises:
        CheckpointError: The checkpoint has none.
    """
    try:
        return (folder / STATE_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no training state to resume from",
            received=error.strerror,
            expected=STATE_FILE,
            fix="Choose another --run-dir, or pass the checkpoint as --pretrained.",
        ) from error
