"""Merge 2 x 2 x 2 neighbouring tokens into one with twice the channels, in one of two ways."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from gcis_runtime.choices import Merging

Offset = tuple[int, int, int]

NEIGHBOURS: Final[Mapping[Merging, tuple[Offset, ...]]] = MappingProxyType(
    {
        "v0.9": (
            (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1),
        ),
        "v2": (
            (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1),
        ),
    }
)  # fmt: skip
"""Offsets (X, Y, Z) of the neighbours in a 2 x 2 x 2 block, in the order in which they are concatenated.

`"v0.9"` repeats (0, 1, 0) and (0, 0, 1) and omits (1, 1, 0) and (0, 1, 1). MONAI 0.9 to 1.4 merges in this
way, and the published weights of gCIS and SwinUNETR were trained with it. `"v2"` is the order since MONAI
1.5. Running weights of one kind as the other changes a fifth to a quarter of the golden labels.
"""


class PatchMerging(nn.Module):
    """Concatenate eight neighbouring tokens, normalise them and project them to twice the channels.

    Names and shapes of the parameters are those of MONAI's `PatchMerging`, and so is the signature, because
    MONAI's `SwinTransformer` creates the module.

    Args:
        dim: Number of channels C.
        norm_layer: Normalisation of the 8 C concatenated channels.
        spatial_dims: Number of spatial axes; must be 3.
        merging: Neighbours to concatenate, see `NEIGHBOURS`.
    """

    def __init__(
        self,
        dim: int,
        norm_layer: type[nn.LayerNorm] = nn.LayerNorm,
        spatial_dims: int = 3,
        *,
        merging: Merging,
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"patch merging has 3 spatial axes, not {spatial_dims}")
        self.merging = merging
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, X, Y, Z, C) with even X, Y and Z to (B, X / 2, Y / 2, Z / 2, 2 C)."""
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in NEIGHBOURS[self.merging]], dim=-1)
        out: Tensor = self.reduction(self.norm(x))
        return out
