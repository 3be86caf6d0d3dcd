"""Test the routing of prompts: table, JSON and image agree with the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gcis_runtime.bundles.manifest import POSITIONS
from gcis_train.cli.main import main
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.routing.decisions import Routing, coincidences, route, routing_table
from gcis_train.routing.picture import draw_heatmap
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import CheckpointConfig, prompt_table

PROMPTS = ("liver", "spleen", "the very same spleen")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = NetworkConfig(feature_size=12, pathways=3, text_dim=8)
    embeddings = torch.randn(2, 8)[[0, 1, 1]]
    folder = tmp_path_factory.mktemp("routing") / "routed"
    config = CheckpointConfig(kind="routed", network=network, prompts=prompt_table(PROMPTS, embeddings))
    checkpoint.save(folder, config, GcisNet(network).state_dict())
    return folder


def _paths(saved: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["paths", "--checkpoint", str(saved), *args])


def test_table_and_json_count_from_one_and_give_the_gaps(saved: Path) -> None:
    found = checkpoint.load(saved)
    net = found.routed()
    rows = json.loads(_paths(saved, "--json").stdout)
    assert [row["prompt"] for row in rows] == list(PROMPTS)
    lines = _paths(saved).stdout.splitlines()
    assert lines[0].split() == ["prompt", *POSITIONS]
    for row, line in zip(rows, lines[1:], strict=True):
        logits = net.route(found.embedding(row["prompt"])).detach()
        assert row["path_selection"] == [int(n) + 1 for n in logits.argmax(-1)]
        ranked = logits.sort(-1, descending=True).values
        assert row["margins"] == pytest.approx((ranked[:, 0] - ranked[:, 1]).tolist(), abs=1e-3)
        cells = "  ".join(
            f"{n} ({m:.1f})" for n, m in zip(row["path_selection"], row["margins"], strict=True)
        )
        assert line.split() == [*row["prompt"].split(), *cells.split()]


def test_prompts_that_share_all_seven_are_named(saved: Path) -> None:
    shown = _paths(saved, "--prompt", "spleen", "--prompt", "the very same spleen")
    assert "'spleen', 'the very same spleen' have the same pathway" in shown.stderr
    assert "same pathway" not in _paths(saved, "--prompt", "spleen", "--prompt", "liver").stderr
    path = Pathway((0,) * 7)
    assert coincidences({"a": path, "b": Pathway((1,) * 7)}) == []


def test_a_network_of_one_pathway_has_infinite_gaps() -> None:
    net = GcisNet(NetworkConfig(feature_size=12, pathways=1, text_dim=8))
    routing = route(net, "liver", torch.randn(8))
    assert routing.as_dict()["margins"] == [None] * 7
    assert json.loads(json.dumps(routing.as_dict(), allow_nan=False))["path_selection"] == [1] * 7
    assert "1 (inf)" in routing_table([routing])
    assert draw_heatmap([routing], pathways=1).width > 0


def _routing(prompt: str, choices: tuple[int, ...], gap: float) -> Routing:
    return Routing(prompt=prompt, pathway=Pathway(choices), router_gaps=(gap,) * 7)


def test_the_picture_has_a_row_a_prompt_and_a_colour_a_block(saved: Path, tmp_path: Path) -> None:
    shown = _paths(saved, "--png", str(tmp_path / "routing.png"))
    assert shown.exit_code == 0, shown.output
    with Image.open(tmp_path / "routing.png") as picture:
        assert picture.format == "PNG"

    def colors(*routings: Routing) -> list[tuple[int, ...]]:
        """Return the most frequent colour of the cells of each row."""
        picture = np.asarray(draw_heatmap(routings, pathways=3))
        one = np.asarray(draw_heatmap(routings[:1], pathways=3))
        step = (picture.shape[0] - one.shape[0]) // (len(routings) - 1)
        found = []
        for row in range(len(routings)):
            top = picture.shape[0] - one.shape[0] - (len(routings) - 1 - row) * step
            pixels = picture[top + 74 : top + 90, 200:400].reshape(-1, 3)
            values, counts = np.unique(pixels, axis=0, return_counts=True)
            found.append(tuple(int(v) for v in values[counts.argmax()]))
        return found

    first, same, other, narrow = colors(
        _routing("a", (0,) * 7, 5.0),
        _routing("b", (0,) * 7, 5.0),
        _routing("c", (1,) * 7, 5.0),
        _routing("d", (0,) * 7, 0.0),
    )
    assert first == same and first != other
    assert sum(narrow) > sum(first) + 100  # a small gap is pale


@pytest.mark.parametrize("count", [1, 90])
def test_rows_stay_high_enough_to_read_and_long_names_are_cut(count: int) -> None:
    routings = [_routing(f"structure {i} " + "of the body " * 40, (i % 3,) * 7, 1.0) for i in range(count)]
    picture = draw_heatmap(routings, pathways=6)
    assert picture.height >= 20 * count and picture.width < 1200


def test_errors_are_one_line(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for args, part in (
        (("--png", str(tmp_path / "file" / "x.png")), "cannot be written"),
        (("--prompt", "kidney"), "no text embedding"),
        (("--prompt", " ", "--clip-weights", "random"), "empty"),
    ):
        shown = _paths(saved, *args)
        assert shown.exit_code == 2 and part in shown.stderr and "\n" not in shown.stderr.strip()
