"""Test the text tower: deterministic, distinct and recorded embeddings; clear errors for missing weights."""

from __future__ import annotations

import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.text.tower import (
    TextEncoder,
    _import_open_clip,
    _reachable,
    published_sha256,
    read_text_tower,
)
from gcis_train.weights.pickles import load_pickle

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
        CheckpointError,
        match=rf"text weights '{weights}' of {MODEL} are not available.*--clip-weights random",
    ):
        TextEncoder(MODEL, weights)
    assert time.monotonic() - begin < 20


def test_an_unreachable_host_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr("urllib.request.getproxies", dict)
    assert not _reachable("https://127.0.0.1:9")
    assert not _reachable("https://host.invalid")
    seen = []
    _import_open_clip()

    def download_pretrained(_: object) -> None:
        seen.append(constants.HF_HUB_OFFLINE)
        raise RuntimeError("no weights")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", download_pretrained)
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
    with pytest.raises(CheckpointError, match=r"clip\.pt' of .* are not available"):
        TextEncoder(MODEL, str(path))


IMAGE_TOWER = {"visual.conv1.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(())}


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every network access an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("gcis_train.text.tower._reachable", refuse)


@pytest.mark.usefixtures("_no_network")
def test_a_local_file_gives_its_text_tower_without_a_network(tower: TextEncoder, tmp_path: Path) -> None:
    state = {n: t.half().clone() for n, t in tower._tower.state_dict().items()}
    save_file(state | IMAGE_TOWER, tmp_path / "clip.safetensors")
    local = TextEncoder(MODEL, str(tmp_path / "clip.safetensors"))
    assert local.weights == "clip.safetensors"
    # The file keeps 16 bits a weight.
    assert (torch.cosine_similarity(local.embed(PROMPTS), tower.embed(PROMPTS)) > 0.999).all()
    assert all(p.dtype == torch.float32 for p in local._tower.parameters())
    with pytest.raises(AssertionError, match="the network was used"):
        socket.create_connection(("localhost", 9))  # the guard itself


def test_a_tag_is_downloaded_and_read_like_a_file(
    tower: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(tower._tower.state_dict(), tmp_path / "model.safetensors")
    asked: list[dict[str, str]] = []
    _import_open_clip()

    def download(known: dict[str, str]) -> str:
        asked.append(known)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", download)
    monkeypatch.setattr("gcis_train.text.tower._reachable", lambda url: True)
    tagged = TextEncoder(MODEL, "openai")
    assert tagged.weights == "openai" and len(asked) == 1 and "openai" in str(asked[0])
    assert torch.equal(tagged.embed(PROMPTS), tower.embed(PROMPTS))


class _Program(nn.Module):
    """Module whose TorchScript archive creates a file while it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("token_embedding", torch.zeros(2, 2))

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return (self.token_embedding, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.training = state[1]
        made = torch.from_file("made", True, 16, dtype=torch.uint8)
        made.fill_(65)
        self.token_embedding = made.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_no_reader_runs_the_code_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(_Program()).save(str(tmp_path / "clip.pt"))
    with pytest.raises(CheckpointError, match="TorchScript archive, whose code would run"):
        TextEncoder(MODEL, str(tmp_path / "clip.pt"))
    with pytest.raises(ValueError, match="TorchScript"):
        read_text_tower(tmp_path / "clip.pt")
    with pytest.raises(pickle.UnpicklingError, match="TorchScript"):
        load_pickle(tmp_path / "clip.pt")
    assert not (tmp_path / "made").exists()


def test_every_published_form_of_a_weights_file_is_read(tmp_path: Path) -> None:
    tower = {"positional_embedding": torch.randn(3, 2), "transformer.resblocks.a.weight": torch.randn(2)}
    top = tower | IMAGE_TOWER
    under = {f"module.text.{n}": t for n, t in tower.items()} | {"module.visual.proj": torch.zeros(1)}
    save_file(top, tmp_path / "top.safetensors")
    save_file(under, tmp_path / "under.safetensors")
    torch.save(top, tmp_path / "top.pt")
    torch.save({"epoch": 3, "state_dict": under}, tmp_path / "under.pt")
    for name in ("top.safetensors", "under.safetensors", "top.pt", "under.pt"):
        found = read_text_tower(tmp_path / name)
        assert found.keys() == tower.keys(), name
        for key, tensor in tower.items():
            assert torch.allclose(found[key], tensor, atol=2e-3) and found[key].dtype == torch.float32, name
    save_file(IMAGE_TOWER, tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match="no text tower"):
        read_text_tower(tmp_path / "image.safetensors")


def test_a_weights_file_of_another_model_is_an_error(tmp_path: Path) -> None:
    save_file({"positional_embedding": torch.zeros(3, 2)}, tmp_path / "small.safetensors")
    with pytest.raises(CheckpointError, match=r"small\.safetensors' of .* are not available.*state_dict"):
        TextEncoder(MODEL, str(tmp_path / "small.safetensors"))


def test_weights_for_another_activation_function_are_refused() -> None:
    with pytest.raises(CheckpointError, match="use the model ViT-B-32-quickgelu"):
        TextEncoder("ViT-B-32", "openai")


@pytest.mark.parametrize("model", ["ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_a_model_with_another_tokenizer_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="does not use the tokenizer of CLIP"):
        TextEncoder(model, "random")


def test_the_published_hash_of_a_tag_is_known_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    assert published_sha256(MODEL, "laion400m_e32") == "46683a32"
    assert (
        published_sha256(MODEL, "openai")
        == "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    )
    assert published_sha256(MODEL, "clip.pt") is None and published_sha256("none", "tag") is None


def test_a_damaged_or_diverged_weights_file_is_an_error(tower: TextEncoder, tmp_path: Path) -> None:
    state = {n: t.clone() for n, t in tower._tower.state_dict().items()}
    torch.save(state, tmp_path / "clip.pt")
    data = (tmp_path / "clip.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="received a file that is incomplete or damaged"):
        TextEncoder(MODEL, str(tmp_path / "cut.pt"))
    state["text_projection"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="NaN or infinity in text_projection"):
        TextEncoder(MODEL, str(tmp_path / "nan.safetensors"))
