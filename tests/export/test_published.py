"""Test the export of published weights: by pathway without CLIP, and by prompt with CLIP."""

from __future__ import annotations

import dataclasses
import sys

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from gcis_export.bundle.settings import choose_settings
from gcis_export.options import Overrides
from gcis_export.resolve import resolve
from gcis_runtime.errors import CheckpointError, PromptError
from gcis_runtime.spec import PreprocessSpec
from gcis_train.text import prompts
from gcis_train.text.resolve import TextOptions
from gcis_train.text.tower import TextEncoder
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import hash_file
from gcis_train.weights.foreign import import_file
from tests.support.documents import write_published

SELECTION = "2,1,2,1,2,2,1"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Import a routed and a single-task checkpoint."""
    folder = tmp_path_factory.mktemp("published")
    write_published(folder / "routed.pt", case="two_pathways", kind="routed")
    write_published(folder / "params.pth", case="small", kind="single")
    import_file(folder / "routed.pt", folder / "routed")
    import_file(folder / "params.pth", folder / "pancreas", prompt="pancreas")
    return checkpoint.load(folder / "routed"), checkpoint.load(folder / "pancreas")


@pytest.fixture
def no_clip(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)


@pytest.mark.usefixtures("no_clip")
def test_neither_needs_clip_when_it_says_where_to_go(imported):
    routed, single = imported
    (choice,) = resolve(single, ["pancreas"]).choices
    assert (choice.prompt, str(choice.pathway)) == ("pancreas", "1,1,1,1,1,1,1")
    found = resolve(routed, ["pancreas"], path_selections=[SELECTION])
    assert str(found.choices[0].pathway) == SELECTION and found.choices[0].router_gaps is None
    with pytest.raises(PromptError, match="--clip-weights"):
        resolve(routed, ["pancreas"])


def test_a_routed_one_goes_by_prompt_with_a_local_clip(imported, tmp_path, monkeypatch):
    routed, _ = imported
    tower = TextEncoder("ViT-B-32-quickgelu", "random", seed=4)
    published = tmp_path / "vit_b_32-quickgelu-laion400m_e32-46683a32.safetensors"
    for file in (published, tmp_path / "clip.safetensors"):
        save_file(tower._tower.state_dict(), file)
    text = TextOptions(clip_weights=str(published), untrained=True)
    with pytest.raises(CheckpointError, match=r"received vit_b_32.*expected laion400m_e32.*--any-clip"):
        resolve(routed, ["pancreas"], text=text)  # its name is published, its content is not
    monkeypatch.setattr(prompts, "published_sha256", lambda *_: hash_file(published)[:8])
    (choice,) = resolve(routed, ["pancreas"], text=text).choices
    assert choice.pathway == routed.routed().resolve(tower.embed(["pancreas"])[0])
    assert choice.router_gaps is not None and min(choice.router_gaps) > 0
    other = dataclasses.replace(text, clip_weights=str(tmp_path / "clip.safetensors"))
    assert resolve(routed, ["pancreas"], text=other).choices[0].pathway == choice.pathway  # by content
    monkeypatch.setattr(prompts, "published_sha256", lambda *_: None)
    with pytest.raises(CheckpointError, match=r"received clip.*expected laion400m_e32.*--any-clip"):
        resolve(routed, ["pancreas"], text=other)
    assert (
        resolve(routed, ["pancreas"], text=dataclasses.replace(other, any_clip=True))
        .notes[-1]
        .startswith("new prompts may use clip.safetensors")
    )


def test_a_prompt_that_the_routers_do_not_know_is_marked(imported, tmp_path, monkeypatch):
    routed, _ = imported
    monkeypatch.setattr(prompts, "TextEncoder", _Flat)
    with pytest.raises(PromptError, match=r"probably not trained.*smallest router gap of 0\.0.*--untrained"):
        resolve(routed, ["pancreas"], text=TextOptions(clip_weights="laion400m_e32"))
    text = TextOptions(clip_weights="laion400m_e32", untrained=True)
    found = resolve(routed, ["pancreas"], text=text)
    assert found.choices[0].untrained and "not trained" in found.notes[0]


@pytest.mark.parametrize("word", ["xyzzy", "banana", "apple"])
def test_a_word_that_is_no_structure_is_refused_or_marked(imported, monkeypatch, word):
    """The routers select some pathway for every word, often with a large gap."""
    routed, _ = imported
    monkeypatch.setattr(prompts, "TextEncoder", _Varied)
    text = TextOptions(clip_weights="laion400m_e32")
    with pytest.raises(PromptError, match=rf"no structure that is known.*received '{word}'.*--untrained"):
        resolve(routed, [word], text=text)
    found = resolve(routed, [word], text=dataclasses.replace(text, untrained=True))
    assert found.choices[0].untrained and found.notes == (
        f"the network was not trained with the prompt '{word}'",
    )
    known = resolve(routed, ["spleen", "Leber"], text=text)
    assert [c.prompt for c in known.choices] == ["spleen", "Leber"]
    assert not any(c.untrained for c in known.choices)
    assert known.notes == (
        "the checkpoint does not list its trained prompts: 'spleen', 'Leber' may not be among them",
    )


class _Varied:
    """Text tower with a distinct embedding per word."""

    def __init__(self, model, weights, *, seed=0):
        self.weights, self.dim = weights, 512

    def embed(self, wanted):
        rows = [torch.Generator().manual_seed(sum(word.encode())) for word in wanted]
        return torch.stack([10 * torch.randn(self.dim, generator=g) for g in rows])


class _Flat:
    """Text tower whose embeddings the routers cannot tell apart."""

    def __init__(self, model, weights, *, seed=0):
        self.weights, self.dim = weights, 512

    def embed(self, wanted):
        return torch.zeros(len(wanted), self.dim)


def test_an_import_expects_the_published_text_weights(imported):
    routed, single = imported
    assert routed.config.text_weights == "laion400m_e32" and single.config.text_weights == "unknown"
    older = msgspec.structs.replace(routed.config, text_weights="unknown")  # written by earlier versions
    assert dataclasses.replace(routed, config=older).text_weights == "laion400m_e32"


def test_what_they_do_not_say_is_asked_for_or_assumed_and_said(imported):
    for found in imported:
        with pytest.raises(CheckpointError, match=r"does not store a window.*published gCIS 128, BTCV 96"):
            choose_settings(found.config, Overrides())
        settings = choose_settings(found.config, Overrides(patch_size=(64, 64, 64)))
        assert settings.preprocess == PreprocessSpec(
            spacing=(1.0, 1.0, 1.0), intensity_window=(-175.0, 250.0), orientation=None
        )
        (note,) = settings.notes
        assert (
            "published spacing 1 x 1 x 1 mm, orientation of the file" in note and "(-175.0, 250.0) HU" in note
        )
