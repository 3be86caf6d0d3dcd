"""Hold the opened bundles of a service, and replace an engine that failed by a fresh one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace

from gcis_runtime.bundles.bundle import Bundle, select_labels
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import BundleError, PromptError
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.open_engine import Opener
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.regions.coarse import matching_labels
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.serve.request import JobRequest


class Engines:
    """The bundles of a service, each in one engine.

    Args:
        bundles: The verified bundles; their names differ.
        options: The engine, for all bundles.
        opener: Opens sessions.

    Attributes:
        turn: Lock that whoever computes holds: the engines share processors and memory.

    Raises:
        BundleError: Two bundles have the same name.
    """

    def __init__(
        self, bundles: Sequence[Bundle], options: EngineOptions, *, opener: Opener = open_session
    ) -> None:
        self.bundles = {bundle.name: bundle for bundle in bundles}
        if len(self.bundles) != len(bundles):
            raise BundleError(
                "two bundles have the same name",
                received=", ".join(bundle.name for bundle in bundles),
                fix="Export one of them with another --name.",
            )
        self.turn = threading.Lock()
        self._options, self._opener = options, opener
        self._open: dict[str, LoadedEngine] = {}

    @property
    def ready(self) -> bool:
        """Whether every bundle is in an engine."""
        return len(self._open) == len(self.bundles)

    def open_all(self) -> None:
        """Load every bundle into an engine.

        Raises:
            EngineError: An engine cannot be opened on this machine.
        """
        for name in self.bundles:
            with self.turn:
                self._engine(name)

    def info(self, name: str) -> EngineInfo | None:
        """Return the engine of a bundle; None while it is not loaded."""
        engine = self._open.get(name)
        return None if engine is None else engine.info

    def tf32(self) -> bool:
        """Return whether products of float32 may round their factors."""
        return self._options.tf32

    def choose(self, name: str | None, prompts: Sequence[str]) -> Bundle:
        """Return the bundle for a request, by name, as the only one, or as the only one with the prompts.

        Raises:
            BundleError: There is no bundle with that name, or the choice is not unique.
            PromptError: The bundle does not have a prompt.
        """
        if name is not None:
            if name not in self.bundles:
                raise BundleError(
                    "the service has no bundle with that name",
                    received=repr(name),
                    expected=" or ".join(self.bundles),
                    fix="GET /v1/bundles lists them.",
                )
            found = [self.bundles[name]]
        elif len(self.bundles) == 1:
            found = list(self.bundles.values())
        else:
            found = [bundle for bundle in self.bundles.values() if prompts and _has(bundle, prompts)]
        if len(found) != 1:
            raise BundleError(
                f"{len(found) or 'no'} bundles of the service have the prompts"
                if prompts
                else "the service has several bundles",
                expected="one bundle",
                fix=f"Choose it with the option bundle: {', '.join(self.bundles)}.",
            )
        select_labels(found[0].manifest, prompts)
        return found[0]

    def segmenter(self, bundle: str, prompts: Sequence[str]) -> Segmenter:
        """Return a segmenter of an opened bundle. Do not close it; compute only while holding `turn`.

        Raises:
            EngineError: The engine cannot be opened again.
        """
        return Segmenter(self._engine(bundle), prompts=prompts)

    def with_coarse(self, options: RunOptions, segmenter: Segmenter) -> RunOptions:
        """Return options whose coarse pass uses another bundle of the service, if they name one.

        Raises:
            BundleError: The service does not have the bundle.
        """
        if options.coarse_bundle is None:
            return options
        other = self.choose(options.coarse_bundle, ())
        labels = segmenter.bundle.manifest.labels
        matching = matching_labels([labels[c] for c in segmenter.channels], other.manifest)
        coarse = self.segmenter(other.name, [label.prompt for label in matching])
        return replace(options, segment=replace(options.segment, coarse=coarse))

    def discard(self, request: JobRequest, bundle: str) -> None:
        """Close the engines of a request after an error; the next job opens fresh ones. Hold `turn`."""
        names = {bundle, request.coarse} if isinstance(request.coarse, str) else {bundle}
        for name in names:
            engine = self._open.pop(str(name), None)
            if engine is not None:
                with contextlib.suppress(Exception):
                    engine.close()

    def close(self) -> None:
        """Close all engines."""
        with self.turn:
            for engine in self._open.values():
                engine.close()
            self._open.clear()

    def _engine(self, name: str) -> LoadedEngine:
        if name not in self._open:
            bundle = self.bundles[name]
            self._open[name] = LoadedEngine.open(bundle, self._options, opener=self._opener)
        return self._open[name]


def _has(bundle: Bundle, prompts: Sequence[str]) -> bool:
    try:
        select_labels(bundle.manifest, prompts)
    except PromptError:
        return False
    return True
