"""Define residual blocks: convolutions, instance normalisation without affine parameters, leaky ReLU (0.01).

Tensors have the axes (batch, channel, X, Y, Z).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.01


def conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv3d:
    """Return a 3-D convolution without bias that preserves the spatial size."""
    return nn.Conv3d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)


def norm(channels: int) -> nn.InstanceNorm3d:
    """Return instance normalisation without affine parameters and running statistics, as published."""
    return nn.InstanceNorm3d(channels)


def activate(x: Tensor) -> Tensor:
    """Apply the leaky ReLU of the published network in place.

    The backward pass needs only the signs of the result, which the next convolution stores anyway. This saves
    one tensor per convolution, a quarter of the activations of the decoder.
    """
    return nn.functional.leaky_relu_(x, NEGATIVE_SLOPE)


class PlainBlock(nn.Module):
    """Two 3x3x3 convolutions with a residual connection (a 1x1x1 convolution if channel counts differ)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3)
        self.norm1 = norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        self.norm2 = norm(out_channels)
        self.conv3 = conv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.norm3 = norm(out_channels) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, X, Y, Z) to (B, out, X, Y, Z)."""
        y = activate(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        skip = x if self.conv3 is None or self.norm3 is None else self.norm3(self.conv3(x))
        return activate(y + skip)


class BottleneckBlock(nn.Module):
    """Bottleneck of 1x1x1, 3x3x3 and 1x1x1 convolutions at half the channels, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(channels, half, 1)
        self.norm1 = norm(half)
        self.conv2 = conv(half, half, 3)
        self.norm2 = norm(half)
        self.conv2_2 = conv(half, channels, 1)
        self.norm2_2 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to the same shape."""
        y = activate(self.norm1(self.conv1(x)))
        y = activate(self.norm2(self.conv2(y)))
        return activate(self.norm2_2(self.conv2_2(y)) + x)


class UpMerge(nn.Module):
    """Shared layers of an up-sampling position: double the spatial size and merge the skip connection."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2, bias=False)
        self.concat_conv = conv(2 * out_channels, out_channels, 1)
        self.norm = norm(out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, in, X, Y, Z) and a skip connection (B, out, 2X, 2Y, 2Z) to (B, out, 2X, 2Y, 2Z)."""
        merged = torch.cat((self.transp_conv(x), skip), dim=1)
        return activate(self.norm(self.concat_conv(merged)))
