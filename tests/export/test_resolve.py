"""Test the pathways of prompts: from the router, by hand, or from a static checkpoint; or a clear error."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import torch

from gcis_export.resolve import resolve
from gcis_runtime.errors import CheckpointError, PromptError
from gcis_train.text import prompts
from gcis_train.text.resolve import TextOptions
from gcis_train.weights.checkpoint import prompt_table
from tests.support.export_cases import PROMPTS, write_checkpoint, write_static


def test_router_chooses_and_says_by_how_much(checkpoint):
    net = checkpoint.routed()
    result = resolve(checkpoint)
    assert [c.prompt for c in result.choices] == list(PROMPTS)
    for choice in result.choices:
        embedding = checkpoint.embedding(choice.prompt)
        assert choice.pathway == net.resolve(embedding)
        top = net.route(embedding).sort(dim=-1, descending=True).values
        torch.testing.assert_close(torch.tensor(choice.router_gaps), top[:, 0] - top[:, 1], atol=1e-3, rtol=0)
        assert min(choice.router_gaps) >= 0
    assert result.network.pathways == tuple(c.pathway for c in result.choices)


def test_prompts_are_exported_in_the_order_given(checkpoint):
    result = resolve(checkpoint, ["mandible", "brainstem"])
    assert [c.prompt for c in result.choices] == ["mandible", "brainstem"]


def test_unknown_prompt_names_the_known_and_the_nearest(checkpoint):
    with pytest.raises(PromptError) as caught:
        resolve(checkpoint, ["brainsteam"])
    message = str(caught.value)
    assert "'brainsteam'" in message and "'larynx'" in message and "--clip-weights" in message
    assert message.endswith("Nearest: 'brainstem'.")


def test_an_alias_is_the_trained_prompt_and_needs_no_clip(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "TextEncoder", None)
    static = write_static(tmp_path / "static", checkpoint)
    for found in (checkpoint, static):
        result = resolve(found, ["Kehlkopf", "BrainStem"], text=TextOptions(clip_weights="tag"))
        assert [c.prompt for c in result.choices] == ["larynx", "brainstem"]
        assert [c.pathway for c in result.choices] == [
            c.pathway for c in resolve(found, ["larynx", "brainstem"]).choices
        ]
        assert result.notes[:2] == (
            "'Kehlkopf' is the trained prompt 'larynx'",
            "'BrainStem' is the trained prompt 'brainstem'",
        )
        assert not any(c.untrained for c in result.choices)
        with pytest.raises(PromptError, match="distinct"):
            resolve(found, ["larynx", "Kehlkopf"])


def test_an_alias_without_side_is_ambiguous(tmp_path):
    table = prompt_table(["left kidney", "right kidney"], torch.randn(2, 8))
    trained = write_checkpoint(tmp_path / "c", prompts=table)
    with pytest.raises(PromptError, match="one of 'left kidney', 'right kidney'"):
        resolve(trained, ["Niere"], text=TextOptions(clip_weights="tag", untrained=True))
    assert resolve(trained, ["Niere links"]).choices[0].prompt == "left kidney"


def test_path_selection_needs_no_embedding(tmp_path):
    bare = write_checkpoint(tmp_path / "bare", prompts=())
    result = resolve(bare, ["pancreas"], path_selections=["2,1,2,1,1,2,1"])
    assert str(result.choices[0].pathway) == "2,1,2,1,1,2,1"
    assert result.choices[0].router_gaps is None
    with pytest.raises(PromptError, match=r"from 1 to 2"):
        resolve(bare, ["pancreas"], path_selections=["2,1,2,1,1,2,3"])
    with pytest.raises(PromptError, match="1 path selections for 2 prompts"):
        resolve(bare, ["pancreas", "liver"], path_selections=["2,1,2,1,1,2,1"])
    with pytest.raises(PromptError, match="no prompt to export"):
        resolve(bare)


def test_names_of_pathways_selected_by_hand_are_resolved(checkpoint):
    """The checkpoint lists its prompts, so it is known which ones the network was trained with."""
    hand = ["1,1,1,1,1,1,1", "2,1,1,1,1,1,1"]
    result = resolve(checkpoint, ["Kehlkopf", "mandible"], path_selections=hand)
    assert [(c.prompt, c.asked, c.untrained) for c in result.choices] == [
        ("larynx", "Kehlkopf", False),
        ("mandible", "", False),
    ]
    assert result.notes == ("'Kehlkopf' is the trained prompt 'larynx'",)
    with pytest.raises(PromptError, match=r"not trained with this prompt; received 'banana'.*--untrained"):
        resolve(checkpoint, ["banana"], path_selections=hand[:1])
    result = resolve(checkpoint, ["banana"], path_selections=hand[:1], text=TextOptions(untrained=True))
    assert result.choices[0].untrained and "not trained with the prompt 'banana'" in result.notes[0]


def test_a_prompt_that_was_added_without_training_is_marked(checkpoint):
    provenance = {**checkpoint.config.provenance, "untrained_prompts": ["larynx"]}
    config = msgspec.structs.replace(checkpoint.config, provenance=provenance)
    added = dataclasses.replace(checkpoint, config=config)
    for arguments in ({}, {"path_selections": ["1,1,1,1,1,1,1"]}):
        with pytest.raises(PromptError, match=r"not trained with this prompt; received 'larynx'"):
            resolve(added, ["larynx"], **arguments)
        result = resolve(added, ["larynx"], text=TextOptions(untrained=True), **arguments)
        assert result.choices[0].untrained and "'larynx'" in result.notes[0]
    assert not resolve(added, ["mandible"]).choices[0].untrained


def test_prompts_must_differ(checkpoint):
    with pytest.raises(PromptError, match="distinct"):
        resolve(checkpoint, ["larynx", "Larynx "])


def test_coinciding_pathways_are_reported(checkpoint):
    hand = ["1,1,1,1,1,1,1", "2,1,1,1,1,1,1", "1,1,1,1,1,1,1"]
    result = resolve(checkpoint, PROMPTS, path_selections=hand)
    assert result.coinciding == [[PROMPTS[0], PROMPTS[2]]]


def test_static_checkpoint_exports_directly(checkpoint, tmp_path):
    static = write_static(tmp_path / "static", checkpoint)
    result = resolve(static, ["larynx"])
    assert result.routed is None
    assert result.network.pathways == (resolve(checkpoint, ["larynx"]).choices[0].pathway,)
    with pytest.raises(PromptError, match="no text embedding"):
        resolve(static, ["mandible"])
    with pytest.raises(PromptError, match="pathways are fixed"):
        resolve(static, ["larynx"], path_selections=["1,1,1,1,1,1,1"])


def test_static_checkpoint_without_names_takes_them_from_the_prompts(checkpoint, tmp_path):
    static = write_static(tmp_path / "static", checkpoint, named=False)
    assert [c.prompt for c in resolve(static, ["a", "b"]).choices] == ["a", "b"]
    with pytest.raises(PromptError, match="does not name its structures"):
        resolve(static, ["a"])


class _Tower:
    """Stub of a CLIP text tower: derives an embedding from the prompt and the name of the weights."""

    dim = 8

    def __init__(self, model, weights, *, seed=0):
        self.model, self.weights = model, f"random (seed {seed})" if weights == "random" else weights

    def embed(self, prompts):
        rows = [torch.Generator().manual_seed(sum((p + self.weights).encode())) for p in prompts]
        return torch.stack([torch.randn(self.dim, generator=g) for g in rows])


def test_new_prompt_is_embedded_with_the_checkpoints_own_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "TextEncoder", _Tower)
    tower = _Tower("m", "tag")
    table = prompt_table(PROMPTS, tower.embed(PROMPTS))
    trained = write_checkpoint(tmp_path / "c", prompts=table, text_weights="tag")
    with pytest.raises(PromptError, match=r"not trained with this prompt; received 'spleen'.*--untrained"):
        resolve(trained, ["spleen", "larynx"], text=TextOptions(clip_weights="tag"))
    result = resolve(trained, ["spleen", "larynx"], text=TextOptions(clip_weights="tag", untrained=True))
    assert [c.untrained for c in result.choices] == [True, False]
    assert result.notes == ("the network was not trained with the prompt 'spleen'",)
    assert result.choices[0].pathway == trained.routed().resolve(tower.embed(["spleen"])[0])
    with pytest.raises(CheckpointError, match=r"received other of .*; expected tag of .*--clip-weights tag"):
        resolve(trained, ["spleen"], text=TextOptions(clip_weights="other", untrained=True))
    text = TextOptions(clip_weights="other", any_clip=True, untrained=True)
    found = resolve(trained, ["spleen"], text=text)
    assert found.choices[0].pathway == trained.routed().resolve(_Tower("m", "other").embed(["spleen"])[0])
    assert "other instead of the text weights tag" in found.notes[-1]


def test_random_text_weights_are_drawn_with_the_checkpoints_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "TextEncoder", _Tower)
    tower = _Tower("m", "random", seed=7)
    table = prompt_table(PROMPTS, tower.embed(PROMPTS))
    trained = write_checkpoint(tmp_path / "c", prompts=table, text_weights="random (seed 7)")
    new = ["spleen", "kidney", "stomach"]
    text = TextOptions(clip_weights="random", untrained=True)
    found = [choice.pathway for choice in resolve(trained, new, text=text).choices]
    net = trained.routed()
    assert found == [net.resolve(e) for e in tower.embed(new)]
    assert found != [net.resolve(e) for e in _Tower("m", "random", seed=0).embed(new)]


def test_text_tower_of_another_width_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "TextEncoder", _Tower)
    monkeypatch.setattr(_Tower, "dim", 16)
    trained = write_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="does not fit the router"):
        resolve(trained, ["spleen"], text=TextOptions(clip_weights="random", untrained=True))
