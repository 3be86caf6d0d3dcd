"""Test the settings that a run changes in PyTorch."""

from __future__ import annotations

import pytest
import torch

from gcis_train.training.run import search_convolutions


@pytest.mark.parametrize(("device", "found"), [("cuda", (True, 4)), ("cpu", (False, 10))])
def test_the_search_of_algorithms_is_limited(
    monkeypatch: pytest.MonkeyPatch, device: str, found: tuple[bool, int]
) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", False)
    monkeypatch.setattr(cudnn, "benchmark_limit", 10)
    search_convolutions(torch.device(device))
    assert (cudnn.benchmark, cudnn.benchmark_limit) == found
