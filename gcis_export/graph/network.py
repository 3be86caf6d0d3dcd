"""Define the export model, which maps windows to one logit channel per prompt."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gcis_export.graph.swin import Swin
from gcis_runtime.spec import Shape3
from gcis_train.nets.encoder import Encoder
from gcis_train.nets.network import StaticGcisNet


class ExportEncoder(nn.Module):
    """Encoder whose transformer is replaced by `Swin`.

    Args:
        source: Encoder of the static network; its weights are copied.
        patch_size: Window size in voxels (X, Y, Z).
        batch: Batch size.
    """

    def __init__(self, source: Encoder, patch_size: Shape3, batch: int = 1) -> None:
        super().__init__()
        self.swin = Swin(source.swin, patch_size, batch)
        first = copy.deepcopy(source.encoder1)
        self.first = first
        self.rest = nn.ModuleList(
            copy.deepcopy(block)
            for block in (
                source.encoder2,
                source.encoder3,
                source.encoder4,
                source.encoder5,
                source.encoder10,
            )
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map windows (batch, 1, X, Y, Z) to the six feature maps that the decoder reads."""
        hidden = self.swin(image)
        return (self.first(image), *(block(x) for block, x in zip(self.rest, hidden, strict=True)))


class ExportNet(nn.Module):
    """Network with static shapes and few operators that computes the same logits as a `StaticGcisNet`.

    The last convolution, with weights foreground minus background, returns the difference of the two logits.
    Prompts whose pathways differ only at the last position share one convolution.

    Args:
        source: Static network; its weights are copied.
        patch_size: Window size in voxels (X, Y, Z).
        batch: Batch size.
    """

    def __init__(self, source: StaticGcisNet, patch_size: Shape3, batch: int = 1) -> None:
        super().__init__()
        self.patch_size, self.batch = patch_size, batch
        self.encoder = ExportEncoder(source.encoder, patch_size, batch)
        self.decoder = copy.deepcopy(source.decoder)
        last: nn.ModuleDict = self.decoder.positions[-1].blocks  # type: ignore[assignment]
        self.pathways = source.pathways
        prefixes = list(dict.fromkeys(p.choices[:-1] for p in self.pathways))
        self.members = [
            [i for i, p in enumerate(self.pathways) if p.choices[:-1] == prefix] for prefix in prefixes
        ]
        self.heads = nn.ModuleList(
            _fold([last[str(self.pathways[i].choices[-1])] for i in members])  # type: ignore[misc]
            for members in self.members
        )
        for name in list(last):
            last[name] = nn.Identity()
        placed = [i for members in self.members for i in members]
        self.order = [placed.index(i) for i in range(len(placed))]
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Map windows (batch, 1, X, Y, Z) to logits (batch, prompts, X, Y, Z)."""
        features = self.decoder.branch(self.encoder(image), self.pathways)
        logits = [head(features[members[0]]) for head, members in zip(self.heads, self.members, strict=True)]
        out = logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)
        if self.order != sorted(self.order):
            out = out.index_select(1, torch.tensor(self.order))
        return out


def _fold(convolutions: list[nn.Conv3d]) -> nn.Conv3d:
    """Return one 1x1x1 convolution that computes foreground minus background per two-class convolution."""
    folded = nn.Conv3d(convolutions[0].in_channels, len(convolutions), 1)
    with torch.no_grad():
        folded.weight.copy_(torch.cat([c.weight[1:2] - c.weight[0:1] for c in convolutions]))
        folded.bias.copy_(torch.cat([_bias(c)[1:2] - _bias(c)[0:1] for c in convolutions]))  # type: ignore[union-attr]
    return folded


def _bias(convolution: nn.Conv3d) -> Tensor:
    return torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias
