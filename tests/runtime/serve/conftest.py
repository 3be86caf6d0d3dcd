"""Fixtures of the service's tests: a service in this process with the test bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.options import EngineOptions
from tests.support.bundles_and_images import write_bundle, write_ct

Make = Callable[..., "object"]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle and CTs with one window."""
    folder = tmp_path_factory.mktemp("material")
    write_bundle(folder / "b.gcis")
    for seed in range(2):
        write_ct(folder / f"{seed}.nii.gz", shape=(20, 18, 16), seed=seed)
    return folder


@pytest.fixture
def make_service(material: Path, tmp_path: Path) -> Iterator[Callable[..., object]]:
    """Return a function that opens a service; its folder is `tmp_path/jobs`."""
    pytest.importorskip("prometheus_client")
    from gcis_runtime.serve.engines import Engines
    from gcis_runtime.serve.service import JobService
    from gcis_runtime.serve.settings import Limits
    from gcis_runtime.serve.store import JobStore

    made: list[JobService] = []

    def make(*, start: bool = True, opener: object = None, **limits: object) -> JobService:
        keywords = {} if opener is None else {"opener": opener}
        engines = Engines(
            [open_bundle(material / "b.gcis")], EngineOptions(engine="onnx", threads=1), **keywords
        )
        service = JobService(JobStore(tmp_path / "jobs"), engines, Limits(grace_seconds=0.0, **limits))
        service.recover()
        made.append(service)
        if start:
            engines.open_all()
            service.start()
        return service

    yield make
    for service in made:
        assert service.stop()
        service.engines.close()
