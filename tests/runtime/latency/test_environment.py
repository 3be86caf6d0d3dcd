"""Test the environment of a record: values of the machine, or None if the system reports none."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gcis_runtime.engines.gpu.probe import Driver, Gpu
from gcis_runtime.latency import environment as module
from gcis_runtime.latency.environment import _memory_limit, environment, gpus


def test_the_environment_is_whole_and_ready_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = msgspec.json.decode(msgspec.json.encode(environment()))
    assert found["variables"]["OMP_NUM_THREADS"] == "1"
    assert found["cpu"]["usable"] >= 1 and found["packages"]["numpy"]
    assert set(found["cgroup"]) == {"cpus", "memory_bytes"}
    assert found["gpus"] or found["gpu_problem"]


@pytest.mark.parametrize(
    ("line", "file", "text", "limit"),
    [
        ("0::/a/b", "a/memory.max", "4096", 4096),
        ("0::/a/b", "a/b/memory.max", "max", None),
        ("4:memory:/a", "memory/a/memory.limit_in_bytes", "8192", 8192),
        ("4:memory:/a", "memory/memory.limit_in_bytes", "9223372036854771712", None),
        ("4:pids:/a", "memory/a/memory.limit_in_bytes", "8192", None),
    ],
)
def test_the_memory_limit_of_a_group_or_one_above_counts(
    tmp_path: Path, line: str, file: str, text: str, limit: int | None
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"{text}\n")
    member = tmp_path / "member"
    member.write_text(f"1:name=systemd:/x\n{line}\n")
    assert _memory_limit(tmp_path, member) == limit


def test_gpus_are_asked_of_nvidia_smi_and_else_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "NVIDIA H100 80GB HBM3, 580.1, 81559, 345, 1980, 2619, P0\n"

    def smi(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 0, stdout=line)

    monkeypatch.setattr(module.subprocess, "run", smi)
    (gpu,) = gpus()
    assert (gpu["name"], gpu["driver"], gpu["sm_mhz"]) == ("NVIDIA H100 80GB HBM3", "580.1", 345)

    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(module.subprocess, "run", missing)
    known = Gpu(index=0, name="A GPU", capability=(9, 0), memory=1 << 30)
    monkeypatch.setattr(module, "probe_driver", lambda: Driver(version="13.0", gpus=(known,)))
    assert gpus() == [{"name": "A GPU", "memory_mib": 1024, "capability": "sm_90"}]
