"""Define the encoder: Swin transformer of MONAI, our patch merging, and convolutional blocks on its features.

MONAI provides `SwinTransformer`: patch embedding, transformer blocks (window attention, shifted windows and
their mask, MLP), their order, and the layer norm of the features. The golden logits in tests/data/conformance
check that these parts compute as published, with every allowed version of MONAI. Patch merging changed in
MONAI 1.5; it is defined in patch_merging.py.
"""

from __future__ import annotations

import functools
from typing import cast

from monai.networks.nets.swin_unetr import SwinTransformer, WindowAttention
from torch import Tensor, nn

from gcis_runtime.choices import Merging
from gcis_train.nets.blocks import BottleneckBlock, PlainBlock
from gcis_train.nets.patch_merging import PatchMerging

WINDOW = 7
PATCH = 2
DEPTHS = (2, 2, 2, 2)
HEADS = (3, 6, 12, 24)


class Encoder(nn.Module):
    """Compute six feature maps of an image, from full resolution to 1/32.

    Args:
        in_channels: Number of image channels.
        feature_size: Channels of the first stage.
        merging: Neighbours that patch merging concatenates.
        checkpoint: Recompute the activations of the transformer in the backward pass.
    """

    def __init__(
        self, *, in_channels: int, feature_size: int, merging: Merging = "v2", checkpoint: bool = False
    ) -> None:
        super().__init__()
        f = feature_size
        self.swin = SwinTransformer(
            in_chans=in_channels,
            embed_dim=f,
            window_size=(WINDOW,) * 3,
            patch_size=(PATCH,) * 3,
            depths=DEPTHS,
            num_heads=HEADS,
            use_checkpoint=checkpoint,
            downsample=functools.partial(PatchMerging, merging=merging),
        )
        _fuse_attention(self.swin)
        self.encoder1 = PlainBlock(in_channels, f)
        self.encoder2 = PlainBlock(f, f)
        self.encoder3 = PlainBlock(2 * f, 2 * f)
        self.encoder4 = PlainBlock(4 * f, 4 * f)
        self.encoder5 = BottleneckBlock(8 * f)
        self.encoder10 = BottleneckBlock(16 * f)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the six feature maps.

        Args:
            image: (B, in_channels, X, Y, Z) windows in [0, 1].

        Returns:
            Maps with f, f, 2f, 4f, 8f, 16f channels (f: feature size) at 1, 1/2, 1/4, 1/8, 1/16, 1/32 of the
            size.
        """
        return self.convolve(image, self.transform(image))

    def transform(self, image: Tensor) -> list[Tensor]:
        """Return the five normalised feature maps of the transformer, from 1/2 to 1/32 of the size."""
        return cast("list[Tensor]", self.swin(image, normalize=True))

    def convolve(self, image: Tensor, hidden: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the six feature maps of an image from those of the transformer."""
        return (
            self.encoder1(image),
            self.encoder2(hidden[0]),
            self.encoder3(hidden[1]),
            self.encoder4(hidden[2]),
            self.encoder5(hidden[3]),
            self.encoder10(hidden[4]),
        )


def _fuse_attention(swin: SwinTransformer) -> None:
    """Let MONAI 1.6.1 or later compute window attention in one fused kernel where gradients are disabled.

    Results differ by rounding only. MONAI 1.6.0 has the explicit form alone.
    """
    for module in swin.modules():
        if isinstance(module, WindowAttention) and hasattr(module, "use_flash_attention"):
            module.use_flash_attention = True
