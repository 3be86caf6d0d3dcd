"""Test window and preprocessing: from the checkpoint, overridden, or published defaults with a note."""

from __future__ import annotations

import click
import pytest
from msgspec import UNSET

from gcis_export.bundle.labels import make_labels
from gcis_export.bundle.settings import choose_settings
from gcis_export.cli import _foreground
from gcis_export.options import Overrides
from gcis_runtime.errors import CheckpointError, PromptError
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec
from gcis_train.nets.config import NetworkConfig
from gcis_train.weights.checkpoint import CheckpointConfig
from tests.support.export_cases import PROMPTS


def _config(**fields):
    return CheckpointConfig(kind="routed", network=NetworkConfig(), **fields)


def test_the_checkpoints_settings_are_taken_as_they_are():
    preprocess, window = PreprocessSpec(spacing=(3.0, 3.0, 3.0)), WindowSpec(patch_size=(64, 96, 64))
    settings = choose_settings(_config(preprocess=preprocess, window=window), Overrides())
    assert (settings.preprocess, settings.window, settings.notes) == (preprocess, window, ())


def test_overrides_win_and_are_noted():
    config = _config(preprocess=PreprocessSpec(), window=WindowSpec())
    wanted = Overrides(patch_size=(64, 64, 64), overlap=0.25, spacing=(2.0, 2.0, 3.0), orientation="LPS")
    settings = choose_settings(config, wanted)
    assert settings.window == WindowSpec(patch_size=(64, 64, 64), overlap=0.25)
    assert settings.preprocess == PreprocessSpec(spacing=(2.0, 2.0, 3.0), orientation="LPS")
    assert "spacing 2 x 2 x 3 mm, orientation LPS" in settings.notes[0]
    assert "(96, 96, 96)" in settings.notes[1]


def test_imported_weights_need_a_window_and_get_the_published_defaults():
    with pytest.raises(CheckpointError, match="--patch-size"):
        choose_settings(_config(), Overrides())
    settings = choose_settings(_config(), Overrides(patch_size=(96, 96, 96), orientation="file"))
    assert settings.preprocess == PreprocessSpec()
    assert "spacing 1 x 1 x 1 mm" in settings.notes[0] and "(-175.0, 250.0) HU" in settings.notes[0]
    assert "orientation" not in settings.notes[0]


def test_a_foreground_rule_is_the_checkpoints_or_what_was_asked_for():
    rule = PreprocessSpec(foreground=Foreground(margin=4))
    config = _config(preprocess=rule, window=WindowSpec())
    kept = choose_settings(config, Overrides(spacing=(2.0, 2.0, 2.0)))
    assert kept.preprocess.crop == Foreground(margin=4) and "crop" not in kept.notes[0]
    off = choose_settings(config, Overrides(foreground=UNSET))
    assert off.preprocess == PreprocessSpec() and off.notes[0].endswith("from training: crop none")
    other = choose_settings(_config(window=WindowSpec()), Overrides(foreground=Foreground(margin=2)))
    assert other.preprocess.crop == Foreground(margin=2)
    assert "spacing 1 x 1 x 1 mm" in other.notes[0] and "crop" not in other.notes[0]
    more = choose_settings(config, Overrides(foreground=Foreground(margin=9)))
    assert more.notes[0].endswith("crop to the foreground with a margin of 9 voxels")
    with pytest.raises(CheckpointError, match="cannot be used; received padding value 1 with a foreground"):
        choose_settings(_config(window=WindowSpec(padding_value=1.0)), Overrides(foreground=Foreground()))


@pytest.mark.parametrize(
    ("text", "found"), [("4", Foreground(margin=4)), ("0", Foreground()), ("off", UNSET), (None, None)]
)
def test_the_command_reads_a_foreground_rule(text, found):
    assert _foreground(None, None, text) == found
    for wrong in ("-1", "2000", "2.5", "body"):
        with pytest.raises(click.BadParameter, match=f"'{wrong}' is neither 'off' nor a margin in voxels"):
            _foreground(None, None, wrong)


@pytest.mark.parametrize("wrong", [{"patch_size": (50, 64, 64)}, {"overlap": 1.0}, {"orientation": "XYZ"}])
def test_impossible_settings_are_one_clear_error(wrong):
    with pytest.raises(CheckpointError, match="the settings cannot be used; received"):
        choose_settings(_config(window=WindowSpec()), Overrides(**wrong))


def test_labels_count_from_one_with_distinct_colours():
    prompts = [*PROMPTS, *(f"structure {i}" for i in range(40))]
    labels = make_labels(prompts)
    assert [label.value for label in labels] == list(range(1, 44))
    assert len({label.color for label in labels}) == 43
    assert labels[0].codes == {"SCT": "15926001"} and labels[5].codes == {}
    sided = [label.codes for label in make_labels(["left parotid gland", "right kidney", "Glnd_Submand_L"])]
    assert sided == [{"SCT": "45289007"}, {"SCT": "9846003"}, {"SCT": "385296007"}]


def test_a_sentence_is_labelled_like_the_structure_it_names():
    bare, sentence, lesion = (
        make_labels([p])[0]
        for p in ("pancreas", "A computerized tomography of a pancreas.", "a CT of a pancreas tumour")
    )
    assert (sentence.codes, sentence.color) == (bare.codes, bare.color)
    assert sentence.name == "A computerized tomography of a pancreas."
    assert lesion.codes == {}


@pytest.mark.parametrize("values", [(1, 1), (0, 1), (1,), (1, 70000)])
def test_label_values_are_distinct_and_in_range(values):
    with pytest.raises(PromptError, match="label values cannot be used"):
        make_labels(["a", "b"], values)
