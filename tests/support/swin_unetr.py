"""Create the weights of a SwinUNETR."""

from __future__ import annotations

from monai.networks.nets import SwinUNETR
from torch import Tensor


def swin_unetr_state(
    *, in_channels: int = 1, out_channels: int = 14, feature_size: int = 12
) -> dict[str, Tensor]:
    """Return the random weights of a SwinUNETR by published name."""
    net = SwinUNETR(in_channels=in_channels, out_channels=out_channels, feature_size=feature_size)
    state: dict[str, Tensor] = net.state_dict()
    return state
