"""Training with sampled pathways: the published sum's gradients, without the published sum's memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from train_helpers import batch, naive_decoder

from gcis_train.losses import prompt_loss, value
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.gate import gate
from gcis_train.nets.network import GcisNet
from gcis_train.objectives import Batch, RoutedObjective, sample_gates
from gcis_train.pathway import Pathway

SMALL = (64, 32, 32)
PROMPTS = ("one", "two")


def _net(pathways: int) -> GcisNet:
    torch.manual_seed(3)
    return GcisNet(NetworkConfig(feature_size=12, pathways=pathways, text_dim=8)).double().train()


def _naive_loss(net: GcisNet, data: Batch, embeddings: dict[str, Tensor]) -> Tensor:
    """The published step: windows repeated for each prompt, every block computed."""
    losses = []
    for image, masks, prompts, seed in zip(data.images, data.masks, data.prompts, data.seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        for mask, prompt in zip(masks, prompts, strict=True):
            gates = sample_gates(net.route(embeddings[prompt]), 1.0, generator)
            features = net.encoder(image[None])
            logits = naive_decoder(net, features, gates)
            losses.append(prompt_loss(logits, mask[None]))
    return torch.stack(losses).mean()


def test_gradients_equal_the_published_sum_for_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # keep the losses in float64 too
    net = _net(2)
    embeddings = torch.randn(2, 8, dtype=torch.float64)
    data = batch(SMALL, (("one", "two"),))
    data = Batch(
        names=data.names,
        images=data.images.double(),
        masks=tuple(m.double() for m in data.masks),
        prompts=data.prompts,
        seeds=data.seeds,
    )
    objective = RoutedObjective(net, PROMPTS, embeddings, tau=1.0)
    ours = value(objective.loss(data, done=0.0))
    ours.backward()
    mine = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    table = dict(zip(PROMPTS, embeddings, strict=True))
    naive = _naive_loss(net, data, table)
    naive.backward()
    assert abs(float(ours.detach() - naive.detach())) < 1e-12
    routers = 0
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        scale = parameter.grad.abs().max()
        found = mine[name]
        if found is None:
            assert scale == 0, f"{name}: the published sum has a gradient, ours has none"
            continue
        assert (found - parameter.grad).abs().max() <= 1e-6 * scale + 1e-12, name
        routers += name.startswith("routers.") and bool(scale > 0)
    assert routers == 14  # weight and bias of seven routers, none of them zero


def test_gate_is_the_gradient_of_the_weighted_sum_in_autocast() -> None:
    blocks = [nn.Conv3d(2, 2, 1) for _ in range(3)]
    x = torch.randn(1, 2, 4, 4, 4)
    weight = torch.randn(1, 2, 4, 4, 4)
    gates = torch.tensor([0.0, 1.0, 0.0], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (gate(blocks[1](x), x, gates, 1, blocks) * weight).sum().backward()
    with torch.no_grad():
        expected = torch.stack([(block(x) * weight).sum() for block in blocks])
    assert gates.grad is not None and gates.grad.dtype == torch.float32
    assert torch.allclose(gates.grad, expected, atol=0.3)
    assert not torch.allclose(expected, expected.roll(1), atol=1.0)


def _saved_bytes(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that the backward pass needs, besides the network's parameters."""
    sizes: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = run()
    total = sum(size for pointer, size in sizes.items() if pointer not in parameters)
    del result
    return total


def _kept(pathways: int) -> tuple[int, int]:
    """Bytes kept for the backward pass of a decoder: ours, published sum."""
    net = _net(pathways).float()
    with torch.no_grad():
        features = net.encoder(torch.rand(1, 1, *SMALL))
    gates = nn.functional.one_hot(torch.zeros(7, dtype=torch.long), pathways).float().requires_grad_()
    ours = _saved_bytes(net, lambda: net.decoder(features, Pathway((0,) * 7), list(gates)))
    return ours, _saved_bytes(net, lambda: naive_decoder(net, features, gates))


def test_unsampled_pathways_keep_no_activations() -> None:
    (one, naive_one), (three, naive_three) = _kept(1), _kept(3)
    # More pathways cost the published sum activations, and cost us none.
    assert naive_three > 2 * naive_one
    assert one < 1.1 * naive_one and three <= one + 1000  # the gates themselves are a few bytes


def test_gates_are_hard_with_soft_gradients_and_follow_the_generator() -> None:
    logits = torch.randn(7, 4, requires_grad=True)
    gates = sample_gates(logits, 1.0, torch.Generator().manual_seed(1))
    again = sample_gates(logits, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(gates, again)
    assert torch.allclose(gates.sum(-1), torch.ones(7)) and set(gates.detach().round().unique().tolist()) == {
        0,
        1,
    }
    (gates * torch.randn(7, 4)).sum().backward()
    assert logits.grad is not None and (logits.grad.abs().sum(-1) > 0).all()


def test_sampling_follows_the_softmax() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]]).expand(5000, 3)
    draws = sample_gates(logits, 1.0, torch.Generator().manual_seed(2)).mean(0)
    assert torch.allclose(draws, logits[0].softmax(-1), atol=0.03)


def test_an_unlabelled_batch_has_no_loss() -> None:
    net = _net(1)
    objective = RoutedObjective(net, ("one",), torch.zeros(1, 8), tau=1.0)
    empty = batch(SMALL, ((),))
    (term,) = objective.loss(empty, done=0.0)
    assert (float(term.total), float(term.count)) == (0, 0)
