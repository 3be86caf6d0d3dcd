"""Define the configuration of the network, which determines its parameter shapes and its patch merging."""

from __future__ import annotations

import msgspec

from gcis_runtime.choices import Merging

PUBLISHED_TEXT_WEIGHTS = "laion400m_e32"
"""Tag of the CLIP weights that the published network was trained with."""


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a gCIS network, validated on construction.

    Attributes:
        feature_size: Channels of the first stage; a multiple of 12 (3, 6, 12 and 24 attention heads).
        pathways: Residual blocks at each of the seven decoder positions.
        text_dim: Length of the text embedding of a prompt.
        in_channels: Number of image channels.
        out_channels: Number of classes per prompt: background and foreground.
        merging: Neighbours that patch merging concatenates (nets/patch_merging.py). Runs and
            checkpoints that do not record it were trained with `"v2"`, except imports
            (weights/stored_values.py).
    """

    feature_size: int = 48
    pathways: int = 6
    text_dim: int = 512
    in_channels: int = 1
    out_channels: int = 2
    merging: Merging = "v2"

    def __post_init__(self) -> None:
        if self.feature_size < 12 or self.feature_size % 12:
            raise ValueError(f"feature size {self.feature_size} is not a positive multiple of 12")
        if self.pathways < 1 or self.text_dim < 1 or self.in_channels < 1:
            raise ValueError("pathways, text_dim and in_channels must be at least 1")
        if self.out_channels != 2:
            raise ValueError(f"out_channels {self.out_channels} is not 2 (background and foreground)")
