"""Test parsing of amounts of memory."""

from __future__ import annotations

import pytest

from gcis_runtime.errors import OutputError
from gcis_runtime.system.memory import available_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 << 30), ("1.5GiB", 3 << 29), ("800m", 800 << 20), (" 64 KB", 65536), ("7", 7)]
)
def test_amounts(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "G", "2X", "1e9", "0.1"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(OutputError, match="not an amount of memory"):
        parse_bytes(text)


def _groups(folder, *, version, limit="4294967296", used="4000000000", cache="100000000"):
    """Write the control groups of a container, and the file of memory of a machine with 8 GB."""
    names = {
        1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
        2: ("memory.max", "memory.current", "memory.stat", ""),
    }[version]
    (folder / "memory").mkdir()
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / names[2]).write_text(f"anon 5\n{names[3]}inactive_file {cache}\n")
    (folder / "meminfo").write_text(
        "MemTotal: 9000000 kB\nMemAvailable:    7000000 kB\nSwapFree: 1000000 kB\n"
    )
    return {"cgroup": folder, "membership": folder / "none", "meminfo": folder / "meminfo"}


@pytest.mark.parametrize("version", [1, 2])
def test_memory_that_a_container_has_left(tmp_path, version):
    assert available_bytes(**_groups(tmp_path, version=version)) == 394967296


@pytest.mark.parametrize(("version", "limit"), [(1, "9223372036854771712"), (2, "max")])
def test_without_a_limit_the_machine_decides(tmp_path, version, limit):
    assert available_bytes(**_groups(tmp_path, version=version, limit=limit)) == 8_000_000 * 1024


def test_the_group_of_the_process_and_those_above_it_count(tmp_path):
    places = _groups(tmp_path, version=2, limit="max")
    group = tmp_path / "system" / "job"
    group.mkdir(parents=True)
    (group.parent / "memory.max").write_text("2000000000")
    (group.parent / "memory.current").write_text("1500000000")
    (tmp_path / "member").write_text("0::/system/job\n")
    assert available_bytes(**places | {"membership": tmp_path / "member"}) == 500000000


def test_a_container_that_is_already_over_its_limit_has_nothing_left(tmp_path):
    assert available_bytes(**_groups(tmp_path, version=2, limit="1000", cache="0")) == 0


def test_nothing_is_known_without_the_files(tmp_path):
    places = {"cgroup": tmp_path, "membership": tmp_path / "none", "meminfo": tmp_path / "none"}
    assert available_bytes(**places) is None
