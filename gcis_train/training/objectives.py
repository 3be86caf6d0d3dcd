"""Define training objectives (a network and its loss): routed network, fixed pathways, warm start."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.routing.health import balance_loss
from gcis_train.training.freezing import FrozenPart
from gcis_train.training.losses import Mean, joint_loss, prompt_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of one step.

    Attributes:
        names: Case of each window.
        images: (N, 1, X, Y, Z) float32.
        masks: For each window (T, X, Y, Z) float32.
        prompts: For each window the T prompts of its masks.
        seeds: For each window the seed of its router noise, the same in any batch and on any process.
    """

    names: tuple[str, ...]
    images: Tensor
    masks: tuple[Tensor, ...]
    prompts: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A (window, prompt) pair of a batch: index of the window, prompt, and (X, Y, Z) mask."""

    window: int
    prompt: str
    mask: Tensor


def rows_of(batch: Batch) -> list[Row]:
    """Return the rows of a batch, ordered by window."""
    return [
        Row(window=index, prompt=prompt, mask=mask)
        for index, (masks, prompts) in enumerate(zip(batch.masks, batch.prompts, strict=True))
        for mask, prompt in zip(masks, prompts, strict=True)
    ]


Key = TypeVar("Key", bound=Hashable)


def group_rows(keys: Iterable[Key]) -> dict[Key, list[int]]:
    """Return the indices of equal keys, in order of first appearance."""
    groups: dict[Key, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def take_windows(features: tuple[Tensor, ...], windows: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the feature maps of some windows; a single window or all windows are not copied."""
    if len(windows) == 1:
        return tuple(f[windows[0] : windows[0] + 1] for f in features)
    if list(windows) == list(range(len(features[0]))):
        return features
    index = torch.tensor(windows, device=features[0].device)
    return tuple(f.index_select(0, index) for f in features)


class Objective(Protocol):
    """Network with its loss."""

    @property
    def net(self) -> nn.Module:
        """Module whose parameters are trained."""

    def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
        """Return the loss of a step as a constant number of terms to add.

        Args:
            batch: Windows; may be empty or have no labelled structure (the count of the first term is then
                zero).
            done: Completed share of the training, in [0, 1), for schedules.
        """

    def evaluator(self) -> StaticGcisNet:
        """Return a static network that computes the logit of every prompt."""


class RoutedObjective:
    """Loss of a routed network in which every (window, prompt) row samples a pathway.

    The encoder runs once per window, and rows with the same pathway form one decoder batch. All layers treat
    the samples of a batch independently, so loss and gradients equal those of rows that are computed one by
    one.

    Args:
        net: The routed network.
        prompts: Prompts of the run.
        embeddings: (P, text_dim) embeddings of the prompts.
        tau: Temperature of the Gumbel-softmax.
        tau_end: Temperature at the end of the training, reached by exponential decay; None keeps `tau`.
        balance: Weight of `balance_loss` over all prompts; 0 omits it.
    """

    def __init__(
        self,
        net: GcisNet,
        prompts: Sequence[str],
        embeddings: Tensor,
        *,
        tau: float,
        tau_end: float | None = None,
        balance: float = 0.0,
    ) -> None:
        self.net: GcisNet = net
        self._embeddings = dict(zip(prompts, embeddings, strict=True))
        self._tau, self._tau_end, self._balance = tau, tau_end or tau, balance

    def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
        """Return the mean loss over all (window, prompt) rows."""
        rows = rows_of(batch)
        if not rows:
            return nothing(batch), *self._balance_term()
        features = self.net.encoder(batch.images)
        gates = self._draw(batch, done=done)
        pathways = [Pathway(tuple(choices)) for choices in gates.argmax(-1).tolist()]
        losses = []
        for pathway, members in group_rows(pathways).items():
            mine = take_windows(features, [rows[i].window for i in members])
            logits = self.net.decoder(mine, pathway, gates[members])
            masks = torch.stack([rows[i].mask for i in members])
            losses.append(len(members) * prompt_loss(logits, masks))
        total = torch.stack(losses).sum()
        return Mean(total=total, count=total.new_tensor(float(len(rows)))), *self._balance_term()

    def _draw(self, batch: Batch, *, done: float) -> Tensor:
        """Return sampled router weights (rows, 7, K); the noise of each window comes from its own seed."""
        tau = self._tau * (self._tau_end / self._tau) ** done
        drawn = []
        for prompts, seed in zip(batch.prompts, batch.seeds, strict=True):
            if prompts:
                embeddings = torch.stack([self._embeddings[p] for p in prompts]).to(batch.images.device)
                generator = torch.Generator().manual_seed(seed)
                drawn.append(sample_gates(self.net.route(embeddings), tau, generator))
        return torch.cat(drawn)

    def _balance_term(self) -> tuple[Mean, ...]:
        """Return the balance loss as a term with count one; it does not depend on the batch."""
        if not self._balance:
            return ()
        total = self._balance * balance_loss(self.router_logits())
        return (Mean(total=total, count=torch.ones_like(total), of_routers=True),)

    def router_logits(self) -> Tensor:
        """Return the router logits (P, 7, K) of all prompts."""
        device = next(self.net.parameters()).device
        return self.net.route(torch.stack(list(self._embeddings.values())).to(device))

    def pathways(self) -> dict[str, Pathway]:
        """Return the pathway that evaluation uses for each prompt."""
        with torch.no_grad():
            device = next(self.net.parameters()).device
            return {p: self.net.resolve(e.to(device)) for p, e in self._embeddings.items()}

    def evaluator(self) -> StaticGcisNet:
        """Return the static network of the pathways of all prompts."""
        device = next(self.net.parameters()).device
        return StaticGcisNet.resolved(self.net, list(self.pathways().values())).to(device).eval()


class FixedObjective:
    """Loss of a network in which every (window, prompt) row uses the fixed pathway of its prompt.

    Windows with the same prompts form one batch, and pathways share their common prefixes. Routers are not
    used.

    Args:
        net: A routed network, or a static one with one pathway per prompt in this order.
        pathways: Pathway of each prompt.
        frozen: Part of the encoder that runs in evaluation mode and without autograd.
    """

    def __init__(
        self, net: GcisNet | StaticGcisNet, pathways: Mapping[str, Pathway], *, frozen: FrozenPart
    ) -> None:
        self.net: GcisNet | StaticGcisNet = net
        self._pathways = dict(pathways)
        self._frozen = frozen

    def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
        """Return the mean loss over all (window, prompt) rows."""
        groups = group_rows(batch.prompts)
        groups.pop((), None)
        if not groups:
            return (nothing(batch),)
        features = self._encode(batch.images)
        losses, rows = [], 0
        for prompts, windows in groups.items():
            mine = take_windows(features, windows)
            pathways = [self._pathways[prompt] for prompt in prompts]
            for index, logits in enumerate(self.net.decoder.branch(mine, pathways)):
                masks = torch.stack([batch.masks[window][index] for window in windows])
                losses.append(len(windows) * prompt_loss(logits, masks))
            rows += len(windows) * len(prompts)
        total = torch.stack(losses).sum()
        return (Mean(total=total, count=total.new_tensor(float(rows))),)

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        encoder = self.net.encoder
        if self._frozen == "none":
            return encoder(images)  # type: ignore[no-any-return]
        (encoder if self._frozen == "encoder" else encoder.swin).eval()
        with torch.no_grad():
            hidden = encoder.transform(images)
            if self._frozen == "encoder":
                return encoder.convolve(images, hidden)
        return encoder.convolve(images, hidden)

    def evaluator(self) -> StaticGcisNet:
        """Return the static network of the pathways of all prompts."""
        if isinstance(self.net, StaticGcisNet):
            return self.net.eval()
        device = next(self.net.parameters()).device
        return StaticGcisNet.resolved(self.net, list(self._pathways.values())).to(device).eval()


class JointObjective:
    """Loss of a static network with one softmax over background and all prompts.

    Args:
        net: A static network with one pathway per prompt.
        prompts: Prompts in channel order.
        foreground_weight: See `joint_loss`.
    """

    def __init__(self, net: StaticGcisNet, prompts: Sequence[str], *, foreground_weight: float = 1.0) -> None:
        self.net: StaticGcisNet = net
        self._weight = foreground_weight
        self._channel = {prompt: i for i, prompt in enumerate(prompts)}

    def loss(self, batch: Batch, *, done: float) -> tuple[Mean, ...]:
        """Return the loss; structures that are not labelled in a case are excluded for that case."""
        count, device = len(batch.names), batch.images.device
        known = torch.zeros(count, len(self._channel), dtype=torch.bool, device=device)
        target = torch.zeros((count, *batch.images.shape[2:]), dtype=torch.long, device=device)
        for index, (masks, prompts) in enumerate(zip(batch.masks, batch.prompts, strict=True)):
            for mask, prompt in zip(masks, prompts, strict=True):
                known[index, self._channel[prompt]] = True
                target[index][mask > 0] = self._channel[prompt] + 1
        if not known.any():
            return nothing(batch), nothing(batch)
        return joint_loss(self.net(batch.images), target, known, foreground_weight=self._weight)

    def evaluator(self) -> StaticGcisNet:
        """Return the network in evaluation mode."""
        return self.net.eval()


def nothing(batch: Batch) -> Mean:
    """Return a term with total and count zero, on the device of the batch."""
    zero = torch.zeros((), device=batch.images.device)
    return Mean(total=zero, count=zero)


def sample_gates(logits: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    """Return hard Gumbel-softmax samples with straight-through gradients.

    Args:
        logits: (..., 7, K) router logits.
        tau: Temperature.
        generator: Random generator on the CPU, so that a run does not depend on the device.

    Returns:
        (..., 7, K): one-hot in value, softmax in gradient.
    """
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-20, 1 - 1e-7)
    noise = -torch.log(-torch.log(uniform)).to(logits.device)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    soft = ((wide.log_softmax(-1) + noise) / tau).softmax(-1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), logits.shape[-1]).to(soft.dtype)
    return hard - soft.detach() + soft
