"""Define fixtures shared by the runtime's tests: small bundles, a CT file, kernels compiled for the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.host_kernels import compile_for_host
from tests.support.numpy_kernels import Kernel


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function `make_bundle(folder_name="b.gcis", **options)` that writes into the test's folder."""
    return lambda folder_name="b.gcis", **options: write_bundle(tmp_path / folder_name, **options)


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """Return a small valid CT file."""
    return write_ct(tmp_path / "ct.nii.gz")


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a separate `$GCIS_HOME` for the test, without the calibration of other runs."""
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernel] | None:
    """Return the CUDA kernels compiled for the host; None if there is no C++ compiler."""
    return compile_for_host(tmp_path_factory.mktemp("kernels"))
