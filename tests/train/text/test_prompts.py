"""Test embeddings of prompts: computed once, stored in run and checkpoint, from one text tower."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import torch
from torch import Tensor

from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.nets.config import NetworkConfig
from gcis_train.text import prompts
from gcis_train.text.prompts import PROMPTS_FILE, embed_prompts, embeddings_of, read_table, write_table
from gcis_train.text.tower import described
from gcis_train.training.material import gather, store_embeddings
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig, hash_file, prompt_table
from tests.support.training_values import PROMPTS, options, write_cases


class Tower:
    """Text tower that derives embeddings from prompt and weights name, and records its prompts."""

    dim = 512
    asked: ClassVar[list[str]] = []

    def __init__(self, model: str, weights: str, *, seed: int = 0) -> None:
        self.model, self.weights = model, described(weights, seed=seed)

    def embed(self, wanted: Sequence[str]) -> Tensor:
        self.asked.extend(wanted)
        seeds = [sum((p + self.weights).encode()) for p in wanted]
        return torch.stack([torch.randn(self.dim, generator=torch.Generator().manual_seed(s)) for s in seeds])


@pytest.fixture(autouse=True)
def _tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tower, "asked", [])
    monkeypatch.setattr(prompts, "TextEncoder", Tower)


@pytest.fixture
def found() -> Checkpoint:
    config = CheckpointConfig(
        kind="routed",
        network=NetworkConfig(feature_size=12, pathways=2),
        prompts=prompt_table(["brainstem", "mandible"], Tower("m", "tag").embed(["brainstem", "mandible"])),
        text_model="m",
        text_weights="tag",
    )
    Tower.asked.clear()
    return Checkpoint(config=config, weights={}, sha256="", folder=Path("somewhere"))


def test_a_resumed_run_embeds_nothing_again(tmp_path: Path) -> None:
    datalist, run = write_cases(tmp_path, 1), tmp_path / "run"
    first = gather(datalist, options())
    assert Tower.asked == list(PROMPTS)
    store_embeddings(first, options(), run)
    again = gather(datalist, options(), resumed=run)
    assert Tower.asked == list(PROMPTS)
    assert torch.equal(first.embeddings, again.embeddings)
    assert dataclasses.replace(again, embeddings=first.embeddings) == first
    with pytest.raises(CheckpointError, match=r"a different text tower.*tag of.*random \(seed 0\) of"):
        gather(datalist, options(text_weights="tag"), resumed=run)


def test_only_new_prompts_are_embedded_and_the_order_is_the_callers(tmp_path: Path) -> None:
    known = embed_prompts(["a", "b"], model="m", weights="/far/away/clip.pt", seed=0)
    assert known.text_weights == "clip.pt"
    write_table(tmp_path, known)
    more = embed_prompts(["c", "a"], model="m", weights="clip.pt", seed=0, known=read_table(tmp_path))
    assert Tower.asked == ["a", "b", "c"] and [e.prompt for e in more.prompts] == ["c", "a"]
    assert torch.equal(more.tensor()[1], known.tensor()[0])


def test_a_damaged_table_is_one_clear_error(tmp_path: Path) -> None:
    assert read_table(tmp_path) is None
    (tmp_path / PROMPTS_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"prompts\.json cannot be read.*Remove the file"):
        read_table(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_table(tmp_path / "file", embed_prompts(["a"], model="m", weights="tag", seed=0))


def test_a_text_model_of_another_size_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tower, "dim", 768)
    with pytest.raises(CheckpointError, match=r"received embeddings of 768 numbers; expected 512"):
        gather(write_cases(tmp_path, 1), options())


def test_an_unknown_prompt_without_text_weights_lists_the_known_ones(found: Checkpoint) -> None:
    with pytest.raises(PromptError, match=r"one of 'brainstem', 'mandible'.*Nearest: 'mandible'"):
        embeddings_of(found, ["mandibles"], clip_weights=None)
    with pytest.raises(PromptError, match=r"a prompt is empty; received ' '"):
        embeddings_of(found, [" "], clip_weights="tag")
    with pytest.raises(PromptError, match="has no prompts"):
        embeddings_of(found, [], clip_weights="tag")
    assert Tower.asked == []


def test_prompts_of_the_table_need_no_text_tower(found: Checkpoint) -> None:
    vectors = embeddings_of(found, ["mandible", "brainstem"], clip_weights=None)
    assert list(vectors) == ["mandible", "brainstem"] and Tower.asked == []
    assert torch.equal(vectors["mandible"], found.embedding("mandible"))


def test_only_the_text_tower_of_the_checkpoint_embeds_a_new_prompt(
    found: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = embeddings_of(found, ["liver", "mandible"], clip_weights="tag")
    assert torch.equal(vectors["liver"], Tower("m", "tag").embed(["liver"])[0])
    with pytest.raises(CheckpointError, match=r"not those that the checkpoint.*received other of m"):
        embeddings_of(found, ["liver"], clip_weights="other")
    bare = dataclasses.replace(found, config=msgspec.structs.replace(found.config, prompts=()))
    with pytest.raises(CheckpointError, match="not those that the checkpoint"):
        embeddings_of(bare, ["liver"], clip_weights="other")
    monkeypatch.setattr(Tower, "dim", 8)
    with pytest.raises(CheckpointError, match=r"does not fit the router; received embeddings of 8 numbers"):
        embeddings_of(found, ["liver"], clip_weights="tag")


def test_a_file_without_a_known_prompt_is_identified_by_its_hash(
    found: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = dataclasses.replace(found, config=msgspec.structs.replace(found.config, prompts=()))
    (tmp_path / "weights").write_bytes(b"weights")
    digest = hash_file(tmp_path / "weights")
    assert len(embeddings_of(bare, ["liver"], clip_weights="tag")) == 1
    hashes: dict[str, str | None] = {"tag": None}
    monkeypatch.setattr(prompts, "published_sha256", lambda model, tag: hashes[tag])
    for known, name, same in (
        (None, f"vit-tag-{digest[:8]}.pt", True),
        (None, "vit-tag-00000000.pt", False),  # another file under the published name
        (None, "vit-tag.pt", True),
        (None, f"vit-other-{digest[:8]}.pt", False),
        (digest[:8], "anything.pt", True),
        ("00000000", f"vit-tag-{digest[:8]}.pt", False),
        ("00000000", "tag", False),
    ):
        hashes["tag"] = known
        file = tmp_path / name
        file.write_bytes(b"weights")
        if same:
            assert len(embeddings_of(bare, ["liver"], clip_weights=str(file))) == 1
        else:
            with pytest.raises(CheckpointError, match="not those that the checkpoint"):
                embeddings_of(bare, ["liver"], clip_weights=str(file))
            assert len(embeddings_of(bare, ["liver"], clip_weights=str(file), any_clip=True)) == 1
