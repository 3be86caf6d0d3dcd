"""Test training with sampled pathways: gradients of the published sum, with less activation memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.published import published_loss, published_sum, split_rows
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.gate import gate
from gcis_train.nets.network import GcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.training.losses import value
from gcis_train.training.objectives import Batch, RoutedObjective, sample_gates
from tests.support.training_values import batch

SMALL = (64, 32, 32)
PROMPTS = ("one", "two")


def _net(pathways: int) -> GcisNet:
    torch.manual_seed(3)
    return GcisNet(NetworkConfig(feature_size=12, pathways=pathways, text_dim=8)).double().train()


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", lambda self: self)  # losses turn to float32 otherwise


def _batch(prompts: tuple[tuple[str, ...], ...]) -> Batch:
    data = batch(SMALL, prompts)
    return dataclasses.replace(data, images=data.images.double(), masks=tuple(m.double() for m in data.masks))


def _gradients(net: GcisNet, loss: Tensor) -> dict[str, Tensor | None]:
    net.zero_grad()
    loss.backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}


@pytest.mark.usefixtures("_in_float64")
def test_gradients_equal_the_published_sum_for_every_parameter() -> None:
    """The published step repeats a window per prompt and computes every block."""
    net = _net(2)
    embeddings = torch.randn(2, 8, dtype=torch.float64)
    data = _batch((("one", "two"),))
    ours = RoutedObjective(net, PROMPTS, embeddings, tau=1.0).loss(data, done=0.0)
    mine = _gradients(net, value(ours))
    table = dict(zip(PROMPTS, embeddings, strict=True))
    naive = published_loss(net, data, table)
    theirs = _gradients(net, naive)
    assert abs(float(value(ours).detach() - naive.detach())) < 1e-12
    routers = 0
    for name, wanted in theirs.items():
        assert wanted is not None
        scale = wanted.abs().max()
        found = mine[name]
        if found is None:
            assert scale == 0, f"{name}: the published sum has a gradient, ours has none"
            continue
        assert (found - wanted).abs().max() <= 1e-6 * scale + 1e-12, name
        routers += name.startswith("routers.") and bool(scale > 0)
    assert routers == 14  # weight and bias of seven routers, none of them zero


@pytest.mark.usefixtures("_in_float64")
def test_rows_of_one_pathway_run_together_with_the_gradients_of_rows_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = _net(2)
    with torch.no_grad():  # "one" goes one way, "two" the other, by a lead that leaves gradients
        for router in net.routers:
            router.weight.zero_()
            router.bias.zero_()
            router.weight[:, 0] = torch.tensor([4.0, -4.0])
    embeddings = torch.zeros(2, 8, dtype=torch.float64)
    embeddings[:, 0] = torch.tensor([1.0, -1.0])
    data = _batch((("one",), ("two",), (), ("one",)))
    objective = RoutedObjective(net, PROMPTS, embeddings, tau=1.0)
    sizes: list[tuple[int, tuple[int, ...]]] = []
    decode = net.decoder.forward

    def spy(features: tuple[Tensor, ...], pathway: Pathway, gates: Tensor) -> Tensor:
        sizes.append((len(features[0]), pathway.choices))
        return decode(features, pathway, gates)

    monkeypatch.setattr(net.decoder, "forward", spy)
    together = value(objective.loss(data, done=0.0))
    mine = _gradients(net, together)
    assert sizes == [(2, (0,) * 7), (1, (1,) * 7)]
    apart = torch.stack([value(objective.loss(row, done=0.0)) for row in split_rows(data)]).mean()
    assert len(sizes) == 5
    theirs = _gradients(net, apart)
    assert abs(float(together.detach() - apart.detach())) < 1e-12
    for name, wanted in theirs.items():
        found = mine[name]
        assert (found is None) == (wanted is None), name
        if found is not None and wanted is not None:
            assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max() + 1e-12, name
            assert wanted.abs().max() > 0 or not name.startswith("routers."), name


def test_gate_is_the_gradient_of_the_weighted_sum_in_autocast() -> None:
    blocks = [nn.Conv3d(2, 2, 1) for _ in range(3)]
    x = torch.randn(2, 2, 4, 4, 4)
    weight = torch.randn(2, 2, 4, 4, 4)
    gates = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (gate(blocks[1](x), x, gates, 1, blocks) * weight).sum().backward()
    with torch.no_grad():
        expected = torch.stack([(block(x) * weight).flatten(1).sum(1) for block in blocks], dim=1)
    assert gates.grad is not None and gates.grad.dtype == torch.float32
    assert torch.allclose(gates.grad, expected, atol=0.3)
    assert not torch.allclose(expected, expected.roll(1, dims=0), atol=1.0)
    assert not torch.allclose(expected, expected.roll(1, dims=1), atol=1.0)


def _saved_bytes(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the bytes stored for the backward pass, without the parameters of the network."""
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
    """Return the bytes stored for the backward pass of a decoder: gated, and as published sum."""
    net = _net(pathways).float()
    with torch.no_grad():
        features = net.encoder(torch.rand(1, 1, *SMALL))
    gates = nn.functional.one_hot(torch.zeros(7, dtype=torch.long), pathways).float().requires_grad_()
    ours = _saved_bytes(net, lambda: net.decoder(features, Pathway((0,) * 7), gates[None]))
    return ours, _saved_bytes(net, lambda: published_sum(net, features, gates))


def test_unsampled_pathways_keep_no_activations() -> None:
    (one, naive_one), (three, naive_three) = _kept(1), _kept(3)
    # More pathways cost the published sum activations, and cost us none.
    assert naive_three > 1.8 * naive_one
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
