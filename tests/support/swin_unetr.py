"""Create the weights of a SwinUNETR with any allowed version of MONAI."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from monai.networks.nets import SwinUNETR
from torch import Tensor


def swin_unetr_state(*, in_channels: int = 1, out_channels: int = 14) -> dict[str, Tensor]:
    """Return the random weights of a SwinUNETR with feature size 12 by published name."""
    settings: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "feature_size": 12}
    if "img_size" in inspect.signature(SwinUNETR).parameters:
        settings["img_size"] = 64  # required by MONAI 1.4
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*img_size.*", FutureWarning)  # required and deprecated at once
        state: dict[str, Tensor] = SwinUNETR(**settings).state_dict()
    return state
