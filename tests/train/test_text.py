"""Text embeddings: deterministic, distinct, recorded, and clear about what cannot be had."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.text import TextEncoder, _import_open_clip, _reachable

MODEL = "ViT-B-32-quickgelu"
PROMPTS = ["left kidney", "right kidney", "liver", "liver tumour"]


def test_embeddings_are_distinct_and_of_the_network_size(tower: TextEncoder) -> None:
    embeddings = tower.embed(PROMPTS)
    assert embeddings.shape == (4, 512) and embeddings.dtype == torch.float32 and tower.dim == 512
    distances = torch.cdist(embeddings, embeddings) + 100 * torch.eye(4)
    assert distances.min() > 0.1
    assert torch.equal(embeddings, tower.embed(PROMPTS))
    assert torch.allclose(tower.embed(PROMPTS[2:3])[0], embeddings[2], atol=1e-4)  # alone as among others


def test_a_seed_gives_one_tower_and_leaves_the_random_state(tower: TextEncoder) -> None:
    state = torch.random.get_rng_state()
    again = TextEncoder(MODEL, "random", seed=0)
    other = TextEncoder(MODEL, "random", seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again.embed(PROMPTS), tower.embed(PROMPTS))
    assert not torch.allclose(other.embed(PROMPTS), tower.embed(PROMPTS), atol=0.1)
    assert (tower.weights, other.weights) == ("random (seed 0)", "random (seed 1)")


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_an_error(tower: TextEncoder, prompt: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        tower.embed(["liver", prompt])


def test_a_prompt_that_would_be_cut_is_an_error(tower: TextEncoder) -> None:
    tower.embed(["liver " * 75])
    with pytest.raises(PromptError, match=r"too long.*78 tokens.*at most 77"):
        tower.embed(["liver " * 76])


@pytest.mark.parametrize("weights", ["openai", "nosuchtag", "/nowhere/weights.pt"])
def test_weights_that_cannot_be_had_fail_fast(
    weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(
        CheckpointError, match=rf"text weights '{weights}' of {MODEL} cannot be had.*--clip-weights random"
    ):
        TextEncoder(MODEL, weights)
    assert time.monotonic() - begin < 20


def test_an_unreachable_host_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert not _reachable("https://127.0.0.1:9")
    assert not _reachable("https://host.invalid")
    seen = []
    open_clip = _import_open_clip()

    def create_model(*_: object, **__: object) -> None:
        seen.append(constants.HF_HUB_OFFLINE)
        raise RuntimeError("no weights")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://host.invalid")
    with pytest.raises(CheckpointError, match="no weights"):
        TextEncoder(MODEL, "openai")
    assert seen == [True] and constants.HF_HUB_OFFLINE is False


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="no model 'ViT-X'"):
        TextEncoder("ViT-X", "random")


def test_a_damaged_weights_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"clip\.pt' of .* cannot be had"):
        TextEncoder(MODEL, str(path))


def _full_state(tower: TextEncoder) -> dict[str, Tensor]:
    """A whole CLIP state dict, as published, whose text tower is the given one."""
    open_clip = _import_open_clip()
    clip = open_clip.create_model(MODEL, pretrained=None)
    state: dict[str, Tensor] = clip.state_dict()
    text = tower._tower.state_dict()
    assert set(text) <= set(state)
    return {n: text.get(n, t).half().clone() for n, t in state.items()}


def test_a_local_file_gives_its_text_tower(tower: TextEncoder, tmp_path: Path) -> None:
    state = _full_state(tower)
    path = tmp_path / "clip.safetensors"
    save_file(state, path)
    torch.save(state, tmp_path / "clip.pt")
    wanted = tower.embed(PROMPTS)
    for name in ("clip.safetensors", "clip.pt"):
        local = TextEncoder(MODEL, str(tmp_path / name))
        assert local.weights == name
        # The file keeps 16 bits a weight.
        assert (torch.cosine_similarity(local.embed(PROMPTS), wanted) > 0.999).all()
        kept = sum(p.numel() for p in local._tower.parameters())
        assert kept == sum(p.numel() for p in tower._tower.parameters()) < 70e6  # no image tower
