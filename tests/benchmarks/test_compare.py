"""Test the comparison: all pipelines give equal labels, and ratios pair every turn with every turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.compare import ladder, tables
from benchmarks.compare.rows import agreement, numbered, times
from benchmarks.compare.steps import Settings, Steps
from benchmarks.compare.ways import _published, _routed
from benchmarks.material import Network, write_tiled_phantom
from gcis_runtime.errors import GcisError
from gcis_runtime.images.nifti import read_volume, write_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.spec import PreprocessSpec, Shape3, WindowSpec
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.text import tower as text
from gcis_train.weights import checkpoint
from gcis_train.weights.upcycle import upcycle

PROMPTS = ("larynx", "mandible")


def _network() -> Network:
    torch.manual_seed(0)
    paths = [Pathway((0,) * 7), Pathway((0, 0, 0, 0, 1, 1, 1))]
    net = StaticGcisNet(NetworkConfig(feature_size=12, pathways=2, text_dim=8), paths).eval()
    return Network(
        net=net,
        prompts=PROMPTS,
        preprocess=PreprocessSpec(orientation="RAS", spacing=(6.0, 6.0, 6.0)),
        window=WindowSpec(patch_size=(64, 64, 64)),
    )


def test_published_routed_and_static_give_the_same_margins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    net, embeddings = _network().net, torch.randn(2, 8)

    class Tower:
        def __init__(self, model: str, weights: str) -> None:
            assert (model, weights) == ("ViT-B-32-quickgelu", "random")

        def embed(self, prompts: list[str]) -> torch.Tensor:
            return embeddings[[PROMPTS.index(p) for p in prompts]]

    monkeypatch.setattr(text, "TextEncoder", Tower)
    routed = upcycle(net, embeddings).eval()
    config = checkpoint.CheckpointConfig(
        kind="routed", network=net.config, prompts=checkpoint.prompt_table(PROMPTS[1:], embeddings[1:])
    )
    checkpoint.save(tmp_path / "c", config, routed.state_dict())
    found, window = checkpoint.load(tmp_path / "c"), torch.rand(1, 1, 64, 64, 64)
    with torch.no_grad():
        wanted = net(window)[:, 1:]
        for way in (_published, _routed):
            assert torch.allclose(way(found, routed)(window), wanted, atol=1e-4)


def test_turns_are_paired_and_a_failing_way_is_said_to_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seconds = {
        "published": [40.0, 60.0],
        "static": [10.0],
        "openvino fp32": [5.0],
        "openvino bf16": [2.0, 4.0],
    }
    image = tmp_path / "ct.nii"
    write_volume(image, Volume.from_array(np.zeros((4, 4, 4), np.int16), affine=np.eye(4)))

    def step(name: str) -> Any:
        taken = iter(seconds[name])

        def run() -> dict[str, Any]:
            labels = np.zeros((4, 4, 4), np.int16)
            labels[0] = 1
            labels[0, 0, 0] = 0 if name == "openvino bf16" else 1
            write_volume(tmp_path / f"{name}.nii.gz", Volume.from_array(labels, affine=np.eye(4)))
            whole = next(taken)
            return {
                "whole_seconds": whole, "cpu_seconds": 2 * whole, "start_seconds": 1.0,
                "network_seconds": whole / 2, "other_seconds": 0.5, "windows": 4,
                "windows_computed": 2, "peak_memory_mb": 100,
            }  # fmt: skip

        return run

    def fail() -> dict[str, Any]:
        raise GcisError("this CPU has no int8")

    ways = {name: (step(name), len(s)) for name, s in seconds.items()} | {"openvino int8": (fail, 2)}
    monkeypatch.setattr(ladder, "prepare", lambda *_: Steps(ways=ways, giga_multiplications=7.0))
    settings = Settings(rounds=2, slow_rounds=1, threads=1)
    found = ladder.climb(
        _network(), image, tmp_path, truth=None, settings=settings, on_step=lambda _line: None
    )
    rows = {row["way"]: row for row in found["rows"]}
    assert rows["openvino int8"]["unavailable"] == "this CPU has no int8"
    fast = rows["openvino bf16"]
    assert fast["times_faster"] == {"median": 17.5, "least": 10.0, "most": 30.0}
    assert fast["seconds_per_window"] == 0.75 and fast["whole_seconds_all"] == [2.0, 4.0]
    assert fast["agreement"]["static"]["labels_equal"] == 63 / 64
    assert rows["static"]["agreement"]["published"] == {
        "labels_equal": 1.0,
        "labels_equal_of_labelled": 1.0,
        "dice": 1.0,
    }
    record = {
        "trained": True, "ladders": [found], "image": "phantom 7", "note": "Note.", "feature_size": 12,
        "roi": [64] * 3, "overlap": 0.5, "weights": "trained", "rounds": 2, "slow_rounds": 1,
        "environment": {
            "date": "2026-01-01T", "commit": "c", "cpu": {"model": "M", "usable": 2, "flags": []},
        },
    }  # fmt: skip
    text = tables.block(record, command="cmd")
    assert "| 3.0 | 17.5 | 10.0 to 30.0 | 6.0 | 17.5 | 0.750 | 100 | 98.438% | 98.438% |" in text
    assert "not measured: this CPU has no int8" in text
    assert (
        "openvino fp32: 10.0 times, target 6 (reached) at 100.000% equal labels, target 99.99% (reached)"
        in text
    )
    assert (
        "openvino bf16: 17.5 times, target 20 (not reached) at 98.438% equal labels, target 99.50% (not"
        in text
    )


def _ladder(prompts: int, **ways: float) -> dict[str, Any]:
    rows = [
        {
            "way": way, "title": way, "whole_seconds": 100 / times, "windows": 3 * prompts,
            "times_faster": {"median": times, "least": times, "most": times},
            "agreement": {"static": {"labels_equal": 0.9999 if prompts > 1 else 0.5}},
        }
        for way, times in ways.items()
    ]  # fmt: skip
    blocks = [1, 1, 1, 1, 1, 2, 6] if prompts > 1 else [1] * 7
    return {"prompts": ["p"] * prompts, "rows": rows, "blocks_at_each_position": blocks}


def test_the_readme_shows_every_ladder_and_aims_are_judged_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = {"published": 1.0, "openvino fp32": 6.0}
    many = _ladder(7, **ways, **{"openvino bf16": 40.0})
    one = _ladder(1, **ways, **{"openvino bf16": 11.0})
    lacking = {"way": "onnx fp32", "title": "onnx fp32", "unavailable": "too little memory"}
    one["rows"].append(lacking)
    common = {"environment": {"date": "2026-01-01T", "cpu": {"model": "M", "usable": 2, "flags": []}}}
    records = {
        tables.TRAINED: common
        | {"feature_size": 12, "roi": [64] * 3, "ladders": [many, one], "trained": True},
        tables.LARGE: common | {"feature_size": 48, "roi": [96] * 3, "ladders": [one], "trained": False},
    }
    monkeypatch.setattr(tables, "newest", records.__getitem__)
    text = tables.ladder_block()
    assert "|  | 12/64, one structure | 12/64, 7 structures | 48/96, one structure | labels equal" in text
    assert "| openvino bf16 | 9.1 s, 11.0 x | 2.5 s, 40.0 x | 9.1 s, 11.0 x | 99.990% |" in text
    assert "onnx fp32" not in text
    assert "Windows per column: 3, 21, 3. The pathways of the 7 structures use 1, 1, 1, 1, 1, 2, 6" in text
    aims = tables.aims_text(records[tables.TRAINED])
    assert "Targets, one structure: openvino fp32: 6.0 times, target 6 (reached) at 50.000%" in aims
    assert "Targets, 7 structures:" in aims
    assert "openvino bf16: 40.0 times, target 20 (reached) at 99.990% equal labels, target 99.50%" in aims
    assert "equal labels" not in tables.aims_text(records[tables.LARGE])


@pytest.mark.parametrize(
    ("structures", "expected"),
    [("one", [(1, (2, 2, 2))]), ("both", [(7, (2, 1, 1)), (1, (2, 2, 2))])],
)
def test_seeded_weights_take_the_bundles_pathways(
    monkeypatch: pytest.MonkeyPatch, structures: ladder.Structures, expected: list[Any]
) -> None:
    found = []

    def write(_path: Path, network: Network, windows: Shape3, *, seed: int) -> None:
        found.append((len(network.prompts), windows))

    def climb(network: Network, *_given: Any, **_settings: Any) -> dict[str, Any]:
        assert network.net.config.pathways == 6 and len(network.net.pathways) == len(network.prompts)
        return {"blocks": ladder.blocks_at_each_position(network.net.pathways)}

    monkeypatch.setattr(ladder, "write_tiled_phantom", write)
    monkeypatch.setattr(ladder, "climb", climb)
    record = ladder.untrained(
        12, 64, bundle="demo", structures=structures, windows=((2, 2, 2), (2, 1, 1)), seed=1,
        settings=Settings(threads=1), on_step=lambda _line: None,
    )  # fmt: skip
    assert found == expected
    assert record["ladders"][0] == {"blocks": [1, 1, 1, 1, 1, 2, 6] if structures == "both" else [1] * 7}
    assert record["what"] == "compare-12-64" and record["trained"] is False


def test_ratios_and_agreement_of_nothing() -> None:
    assert times([], [{"s": 1.0}], "s") is None
    assert numbered(np.array([0, 3, 7, 9]), [7, 3]).tolist() == [0, 2, 1, 0]
    empty = np.zeros((2, 2, 2), int)
    assert agreement(empty, empty) == {"labels_equal": 1.0, "labels_equal_of_labelled": None, "dice": None}


@pytest.mark.parametrize("windows", [(2, 1, 3)])
def test_the_tiled_phantom_takes_as_many_windows(tmp_path: Path, windows: tuple[int, int, int]) -> None:
    network = _network()
    write_tiled_phantom(tmp_path / "ct.nii", network, windows, seed=1)
    volume = read_volume(tmp_path / "ct.nii")
    assert len(plan_windows(volume.shape, network.window).starts) == np.prod(windows)
    assert volume.array.std() > 100


def test_a_case_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(main, ["compare", "--case", "48"])
    assert done.exit_code == 2 and "FEATURE_SIZE/ROI" in done.output
    done = CliRunner().invoke(main, ["compare", "--case", "48/96", "--image", "ct.nii.gz"])
    assert done.exit_code == 2 and "tiled phantom" in done.output
