"""Test that JSON files that are nested too deep or not UTF-8 end in one clear error, or are ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gcis_runtime.errors import GcisError
from gcis_train.data.datalist import read_datalist
from gcis_train.evaluation.predictions import _file_values
from gcis_train.options.settings import _read
from gcis_train.text.prompts import PROMPTS_FILE, read_table
from gcis_train.weights import checkpoint

DAMAGE = {"deep": b'{"a": ' * 100_000, "not UTF-8": b'{"\xff": 1}', "cut": b"{"}


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def read_checkpoint(folder: Path, data: bytes) -> None:
    write(folder, checkpoint.WEIGHTS_FILE, b"")
    write(folder, checkpoint.CONFIG_FILE, data)
    checkpoint.load(folder)


def read_prompts(folder: Path, data: bytes) -> None:
    write(folder, PROMPTS_FILE, data)
    read_table(folder)


READERS: dict[str, Callable[[Path, bytes], object]] = {
    "datalist": lambda folder, data: read_datalist(write(folder, "list.json", data)),
    "configuration": lambda folder, data: _read(write(folder, "config.json", data)),
    "label values": lambda folder, data: _file_values(write(folder, "labels.json", data)),
    "checkpoint": read_checkpoint,
    "prompts": read_prompts,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_error(tmp_path: Path, reader: str, damage: str) -> None:
    with pytest.raises(GcisError):
        READERS[reader](tmp_path, DAMAGE[damage])


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pointer_points_nowhere(tmp_path: Path, damage: str) -> None:
    write(tmp_path, checkpoint.POINTER_FILE, DAMAGE[damage])
    assert checkpoint.read_pointer(tmp_path) == {}
