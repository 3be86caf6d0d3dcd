"""Define the routed network, and the static network of fixed pathways."""

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
    """Routed network: a text embedding selects one block at each of seven decoder positions.

    Args:
        config: Sizes of the network.
        checkpoint: Recompute the activations of the transformer in the backward pass.
    """

    def __init__(self, config: NetworkConfig, *, checkpoint: bool = False) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(
            in_channels=config.in_channels,
            feature_size=config.feature_size,
            merging=config.merging,
            checkpoint=checkpoint,
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
        """Return the logits of one prompt for a batch of windows, computing only the chosen blocks.

        Args:
            image: (B, 1, X, Y, Z) windows in [0, 1]; X, Y, Z are multiples of 32 of at least 64.
            embedding: (text_dim,) text embedding.

        Returns:
            (B, 2, X, Y, Z) logits of background and foreground.
        """
        result: Tensor = self.decoder(self.encoder(image), self.resolve(embedding))
        return result


class StaticGcisNet(nn.Module):
    """Network for fixed pathways, without routers and unused blocks; common prefixes are computed once.

    Args:
        config: Sizes; `config.pathways` exceeds every index in `pathways`.
        pathways: Pathway of each prompt, in channel order.
        checkpoint: Recompute the activations of the transformer in the backward pass.
    """

    def __init__(
        self, config: NetworkConfig, pathways: Sequence[Pathway], *, checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.pathways = tuple(pathways)
        self.encoder = Encoder(
            in_channels=config.in_channels,
            feature_size=config.feature_size,
            merging=config.merging,
            checkpoint=checkpoint,
        )
        used = [{p.choices[i] for p in self.pathways} for i in range(len(POSITIONS))]
        self.decoder = Decoder(feature_size=config.feature_size, used=used, out_channels=config.out_channels)

    @classmethod
    def resolved(cls, net: GcisNet | StaticGcisNet, pathways: Sequence[Pathway]) -> StaticGcisNet:
        """Return the static network of some pathways of a routed or static network, with copied weights.

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
                fix="Choose a pathway that the network has.",
            )
        static.load_state_dict({name: state[name] for name in static.state_dict()})
        return static.train(net.training)

    def logits(self, image: Tensor) -> list[Tensor]:
        """Return the logits (B, 2, X, Y, Z) of each prompt."""
        return self.decoder.branch(self.encoder(image), self.pathways)

    def forward(self, image: Tensor) -> Tensor:
        """Return one logit per prompt, foreground minus background: (B, prompts, X, Y, Z)."""
        return torch.cat([foreground_logit(x) for x in self.logits(image)], dim=1)
