"""The routed network and its static static."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_runtime.errors import CheckpointError
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.decoder import Decoder, foreground_logit
from gcis_train.nets.encoder import Encoder
from gcis_train.nets.pathway import Pathway


class GcisNet(nn.Module):
    """The routed network: a text embedding picks one block at each of seven decoder positions.

    Args:
        config: Sizes.
        checkpoint: Recompute the transformer's activations in the backward pass.
    """

    def __init__(self, config: NetworkConfig, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            in_channels=config.in_channels, feature_size=config.feature_size, checkpoint=checkpoint
        )
        self.decoder = Decoder(
            feature_size=config.feature_size,
            used=[range(config.pathways)] * len(POSITIONS),
            out_channels=config.out_channels,
        )
        self.routers = nn.ModuleList(nn.Linear(config.text_dim, config.pathways) for _ in POSITIONS)

    def route(self, embedding: Tensor) -> Tensor:
        """Return router logits (..., 7, pathways) of text embeddings (..., text_dim)."""
        return torch.stack([router(embedding) for router in self.routers], dim=-2)

    def resolve(self, embedding: Tensor) -> Pathway:
        """Return the pathway that evaluation uses for one embedding (text_dim,)."""
        return Pathway(tuple(self.route(embedding).argmax(-1).tolist()))

    def forward(self, image: Tensor, embedding: Tensor) -> Tensor:
        """Evaluate one prompt on a batch of windows, computing only the chosen blocks.

        Args:
            image: (B, 1, X, Y, Z) in [0, 1]; sides multiples of 32, at least 64.
            embedding: (text_dim,) text embedding.

        Returns:
            Logits (B, 2, X, Y, Z).
        """
        result: Tensor = self.decoder(self.encoder(image), self.resolve(embedding))
        return result


class StaticGcisNet(nn.Module):
    """The network for fixed pathways: no router, no unused block, common prefixes shared.

    Args:
        config: Sizes; `pathways` may be any number that the pathways' indices fit in.
        pathways: One for each prompt, in channel order.
        checkpoint: Recompute the transformer's activations in the backward pass.
    """

    def __init__(
        self, config: NetworkConfig, pathways: Sequence[Pathway], *, checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.pathways = tuple(pathways)
        self.encoder = Encoder(
            in_channels=config.in_channels, feature_size=config.feature_size, checkpoint=checkpoint
        )
        used = [{p.choices[i] for p in self.pathways} for i in range(len(POSITIONS))]
        self.decoder = Decoder(feature_size=config.feature_size, used=used, out_channels=config.out_channels)

    @classmethod
    def resolved(cls, net: GcisNet | StaticGcisNet, pathways: Sequence[Pathway]) -> StaticGcisNet:
        """Return the static network of a routed network, or part of a static one, with copies of its weights.

        Raises:
            CheckpointError: The network lacks a block of a pathway.
        """
        static = cls(net.config, pathways)
        state = net.state_dict()
        missing = [name for name in static.state_dict() if name not in state]
        if missing:
            raise CheckpointError(
                "the network lacks blocks of the pathway",
                received=", ".join(missing[:3]),
                expected=f"indices below {net.config.pathways}",
            )
        static.load_state_dict({name: state[name] for name in static.state_dict()})
        return static.train(net.training)

    def logits(self, image: Tensor) -> list[Tensor]:
        """Return each prompt's logits (B, 2, X, Y, Z)."""
        return self.decoder.branch(self.encoder(image), self.pathways)

    def forward(self, image: Tensor) -> Tensor:
        """Return each prompt's logit, foreground minus background: (B, prompts, X, Y, Z)."""
        return torch.cat([foreground_logit(x) for x in self.logits(image)], dim=1)
