"""Training state beside a checkpoint: optimiser moments and counters, without a pickle."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gcis_runtime.errors import CheckpointError

STATE_FILE = "training_state.safetensors"


def pack(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, counters: dict[str, Any]) -> bytes:
    """Return the state as one safetensors blob: tensors by parameter index, everything else as JSON."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            tensors[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    notes = {"groups": json.dumps(state["param_groups"]), "counters": json.dumps(counters)}
    notes["scaler"] = json.dumps(scaler.state_dict())
    return bytes(save(tensors, metadata=notes))


def unpack(data: bytes, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """Put a packed state into the optimiser and the scaler.

    Returns:
        The counters.

    Raises:
        CheckpointError: The state is damaged or of another network.
    """
    state: dict[int, dict[str, Tensor]] = {}
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        notes: dict[str, str] = header["__metadata__"]
        for key, tensor in load(data).items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": json.loads(notes["groups"])})
    except (ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            "the training state is damaged or of another network",
            received=str(error),
            fix="Start a new run folder.",
        ) from error
    scaler_state = json.loads(notes["scaler"])
    if scaler_state:
        scaler.load_state_dict(scaler_state)
    counters: dict[str, Any] = json.loads(notes["counters"])
    return counters
