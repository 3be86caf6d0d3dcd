"""Test options: precedence of recipe, file and flags; an invalid value gives one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from gcis_runtime.errors import CheckpointError, DataError
from gcis_train.options.flags import FLAGS
from gcis_train.options.recipe import FIXED, PUBLISHED
from gcis_train.options.settings import check_run_folder, pick_device, resolve_options, resumed_base
from gcis_train.options.training import TrainOptions

CPU = torch.device("cpu")


def _resolve(**flags: Any) -> TrainOptions:
    return resolve_options(flags, device=CPU)


def test_the_recipe_is_the_default() -> None:
    options = _resolve(config=None, patch_size=None, no_amp=False)
    assert options == TrainOptions(amp="none")
    assert options.network.feature_size == 48 and options.window.patch_size == (128, 128, 128)


def test_flags_override_the_file_which_overrides_the_recipe(tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"network": {"feature_size": 24, "pathways": 3}, "seed": 5, "amp": "bf16"}')
    options = _resolve(
        config=config, feature_size=12, patch_size="64,96,64", spacing="3", orientation="ras", mirror="plain"
    )
    assert (options.network.feature_size, options.network.pathways, options.seed) == (12, 3, 5)
    assert options.window.patch_size == (64, 96, 64) and options.preprocess.spacing == (3.0, 3.0, 3.0)
    assert options.preprocess.orientation == "RAS" and options.augment.mirror == "plain"
    assert options.amp == "bf16" and _resolve(config=config, no_amp=True).amp == "none"
    assert _resolve(orientation="file").preprocess.orientation is None
    assert _resolve(clip_weights="random").text_weights == "random"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"patch_size": "32"}, "at least 64"),
        ({"patch_size": "64,64"}, "--patch-size cannot be read"),
        ({"patch_size": "big"}, "--patch-size cannot be read; received 'big'"),
        ({"feature_size": 10}, "multiple of 12"),
        ({"max_epochs": 0}, "max_epochs 0: at least 1"),
        ({"learning_rate": -1.0}, "learning_rate -1.0 is not a positive number"),
        ({"tau_end": float("nan")}, "tau_end nan is not a positive number"),
        ({"phantoms": -1}, "phantoms -1 must be a number and not negative"),
        ({"weight_decay": float("inf")}, "weight_decay inf must be a number"),
        ({"orientation": "RAX"}, "three axis codes"),
        ({"validation_cases": -2}, "not negative"),
    ],
)
def test_values_that_are_not_allowed(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _resolve(**flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"learningrate": 1}', "unknown field `learningrate`"),
        ('{"augment": {"mirror": "never"}}', "mirror"),
        ('{"window": 3}', "'window' of the configuration is not a group"),
        ('{"labelled_share": 2}', "not a share"),
        ('{"validation_overlap": 1.0}', "validation_overlap"),
    ],
)
def test_files_that_are_not_allowed(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "c.json"
    config.write_text(text)
    with pytest.raises(DataError, match=message):
        _resolve(config=config)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        _resolve(config=tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b'{"seed": "\xff"}')
    with pytest.raises(DataError, match="cannot be read"):
        _resolve(config=tmp_path / "b.json")


def test_devices() -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(DataError, match="unknown device; received 'banana'"):
        pick_device("banana")
    if not torch.cuda.is_available():
        assert pick_device("auto") == CPU
        with pytest.raises(DataError, match="no such CUDA device"):
            pick_device("cuda")
    with pytest.raises(DataError, match="no such CUDA device"):
        pick_device("cuda:99")


def test_an_earlier_run_is_not_written_over(tmp_path: Path) -> None:
    check_run_folder(tmp_path, resume=False)
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"already contains a run.*--resume"):
        check_run_folder(tmp_path, resume=False)
    check_run_folder(tmp_path, resume=True)


FILE_ONLY = {  # shapes of the architecture and details that no one should need to turn
    "network.text_dim", "network.in_channels", "network.out_channels", "window.blend", "window.sigma_scale",
    "window.padding_value", "augment.degrees", "augment.zoom", "text_seed",
}  # fmt: skip


def _leaves(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in tree.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return found


def test_every_option_has_one_flag_and_every_flag_an_option() -> None:
    places = [flag.place for flag in FLAGS]
    assert len(set(places)) == len(places)
    unset = {"preprocess.foreground"}  # and so not written
    assert set(places) | FILE_ONLY == _leaves(msgspec.to_builtins(TrainOptions())) | unset
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)


def test_a_flag_and_the_file_say_the_same(tmp_path: Path) -> None:
    given = {
        "feature_size": 24, "patch_size": "64,96,64", "overlap": 0.25, "spacing": "2", "orientation": "ras",
        "intensity_window": "-100,300", "weight_decay": 1e-3, "schedule": "constant", "warmup_epochs": 1.5,
        "flip": "0.5,0,0", "rotate90": 0.3, "tau": 2.0, "tau_end": 0.5, "balance": 0.1,
        "structures_per_case": "one", "router_learning_rate": 1e-3,
        "intensity_clip": "off", "save_every": 5, "grad_checkpoint": True, "validation_overlap": 0.1,
    }  # fmt: skip
    config = tmp_path / "c.yaml"
    config.write_text("""
# comments are YAML's advantage
network: {feature_size: 24}
window: {roi: [64, 96, 64], overlap: 0.25}
preprocess: {orientation: RAS, spacing: [2, 2.0, 2e0], intensity_window: [-100, 300]}
augment:
  flip: [0.5, 0, 0]
  rotate90: 0.3
  intensity_clip: false
weight_decay: 1e-3
schedule: constant
warmup_epochs: 1.5
tau: 2
tau_end: .5
balance: 1.0e-1
structures_per_case: one
router_learning_rate: 1E-3
save_every: 5
grad_checkpoint: true
validation_overlap: 0.1
""")
    assert _resolve(**given) == _resolve(config=config)


def test_the_published_recipe_is_one_switch(tmp_path: Path) -> None:
    options = resolve_options({"published": True}, device=CPU)
    tree = msgspec.to_builtins(options)
    for place in _leaves(PUBLISHED):
        ours, theirs = tree, PUBLISHED
        for part in place.split("."):
            ours, theirs = ours[part], theirs[part]
        assert list(ours) == theirs if isinstance(theirs, list) else ours == theirs, place
    assert options.augment.mirror == "plain" and options.tau == 1 and options.tau_end is None
    # Sizes, rates and probabilities are the published program's options; the rest is not to be changed.
    free = _resolve(published=True, feature_size=12, patch_size="64", spacing="2", flip="0.1", max_epochs=20)
    assert free.augment.flip == (0.1, 0.1, 0.1) and free.augment.mirror == "plain"
    config = tmp_path / "c.yml"
    config.write_text("published: true\naugment: {rotate90: 0.5}\n")
    assert _resolve(config=config).augment.rotate90 == 0.5
    assert _resolve(config=config).unused_blocks == "decay"


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        ({"mirror": "sided"}, "augment.mirror"),
        ({"balance": 0.1}, "balance"),
        ({"tau_end": 0.5}, "tau_end"),
        ({"orientation": "RAS"}, "preprocess.orientation"),
        ({"amp": "bf16"}, "amp"),
    ],
)
def test_what_the_published_recipe_fixes_is_not_changed(flags: dict[str, Any], place: str) -> None:
    assert place in FIXED or place == "amp"
    with pytest.raises(DataError, match=f"{place} differs from the published recipe; received"):
        _resolve(published=True, **flags)


BOMB = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 16))
"""2 * 4^15 values in 16 lines."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "cannot be read"),
        ("- 1", "list at the top instead of a mapping of options"),
        ("", "NoneType at the top"),
        ("1: 2", "cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("window: " + "[" * 3000, "cannot be read"),
        ("a0: &a0 [1, 1]\n" + BOMB + "network: *a15", "more than 10000 values"),
        ("network: &a [*a]", "more than 10000 values"),
        ("learningrate: 1", "unknown field `learningrate`"),
        ("learning_rate: fast", "learning_rate"),
    ],
)
def test_yaml_that_is_not_allowed(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        _resolve(config=config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("capability", "published", "amp"),
    [((8, 0), False, "bf16"), ((7, 5), False, "fp16"), ((9, 0), True, "fp16")],
)
def test_mixed_precision_fits_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], published: bool, amp: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    cuda = torch.device("cuda")
    assert resolve_options({"published": published}, device=cuda).amp == amp
    assert resolve_options({"no_amp": True}, device=cuda).amp == "none"


def test_the_published_recipe_merges_as_published_and_a_resumed_run_as_it_began(tmp_path: Path) -> None:
    assert _resolve().network.merging == "v2"
    assert _resolve(published=True).network.merging == "v0.9"
    assert _resolve(merging="v0.9").network.merging == "v0.9"
    assert resumed_base(tmp_path) == {}
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "options.json").write_text('{"network": {"feature_size": 48}}')
    base = resumed_base(tmp_path)
    options = resolve_options({"published": True}, device=CPU, base=base)
    assert options.network.merging == "v2"  # a run folder from before the option existed
