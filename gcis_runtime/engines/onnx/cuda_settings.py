"""Define the settings of ONNX Runtime on CUDA that change its speed, and choose from measurements of them.

The settings change neither the graph nor its precision. Which of them is fastest depends on the GPU, on
cuDNN and on the graph, so that they are measured (`pipeline/trial`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.engines.graph_choice import choose_graph
from gcis_runtime.text import counted

Search = Literal["HEURISTIC", "EXHAUSTIVE"]

MARGIN = 0.05
"""Share of the time per window that settings must save. Medians of repeated trials differ by 1 to 2 %."""
TIE = 0.02
"""Settings whose times differ by at most this share count as equally fast; the simplest are chosen."""
REPAID_WITHIN = 400
"""Windows after which a longer start must be repaid: those of one CT of 512 x 512 x 425 voxels at 1 mm.
EXHAUSTIVE searches again in every process, at its first run."""
BATCHES = (1, 2, 4)
"""Windows per run that are tried, if the bundle has such graphs."""


class CudaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a session.

    Attributes:
        search: How cuDNN's algorithms are selected: HEURISTIC asks cuDNN, EXHAUSTIVE times all of them at the
            first run. ONNX Runtime's DEFAULT takes the first of the list, which was up to 50 times slower.
        graph: Record the operators of a run as a CUDA graph, and replay it in later runs.
        batch: Windows per run.
    """

    search: Search = "HEURISTIC"
    graph: bool = False
    batch: int = 1

    @property
    def text(self) -> str:
        """The settings for messages, such as `EXHAUSTIVE search, CUDA graph, 4 windows per run`."""
        graph = ", CUDA graph" if self.graph else ""
        return f"{self.search} search{graph}, {counted(self.batch, 'window')} per run"


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measurements of settings, next to the plain settings in the same turns.

    Attributes:
        settings: The settings.
        problem: Why they cannot be chosen, except for their speed; empty if they can.
        window_seconds: Median time per window.
        plain_seconds: The same for the plain settings.
        start_seconds: Time to open a session and run it once.
        plain_start_seconds: The same for the plain settings.
        device_bytes: Device memory of the session after its runs.
        relative: Largest difference from the logits of the plain settings, divided by the largest logit.
    """

    settings: CudaSettings
    problem: str = ""
    window_seconds: float = 0.0
    plain_seconds: float = 0.0
    start_seconds: float = 0.0
    plain_start_seconds: float = 0.0
    device_bytes: int = 0
    relative: float = 0.0

    @property
    def ratio(self) -> float:
        """Time per window, relative to the plain settings."""
        return self.window_seconds / self.plain_seconds

    @property
    def refusal(self) -> str:
        """Why the settings are not chosen; empty if they may be."""
        if self.problem:
            return self.problem
        if not (self.window_seconds > 0 and self.plain_seconds > 0):
            return "no time was measured"
        if self.ratio > 1 - MARGIN:
            return f"less than {MARGIN:.0%} faster: {self.times}"
        later = self.start_seconds - self.plain_start_seconds
        windows = later / (self.plain_seconds - self.window_seconds)
        if windows > REPAID_WITHIN:
            return f"{later:.1f} s longer start, repaid after {windows:.0f} windows: {self.times}"
        return ""

    @property
    def times(self) -> str:
        """Both times for messages."""
        ours, plain = 1e3 * self.window_seconds, 1e3 * self.plain_seconds
        return f"{ours:.3g} ms per window, {plain:.3g} ms with the plain settings"


def plain_settings(manifest: Manifest, *, precision: str, batch: int | None = None) -> CudaSettings:
    """Return the settings that are used where nothing was measured.

    Args:
        manifest: The bundle's manifest.
        precision: A precision that the bundle has.
        batch: Largest number of windows per run; None for the largest of the bundle.
    """
    return CudaSettings(batch=choose_graph(manifest, precision=precision, batch=batch).batch)


def candidates(manifest: Manifest, *, precision: str) -> tuple[CudaSettings, ...]:
    """Return the settings to measure, the simplest first within each batch, larger batches first."""
    plain = plain_settings(manifest, precision=precision)
    present = {graph.batch for graph in manifest.graphs if graph.precision == precision}
    batches = sorted({*(b for b in BATCHES if b in present), plain.batch}, reverse=True)
    searches: tuple[Search, ...] = ("HEURISTIC", "EXHAUSTIVE")
    made = (
        CudaSettings(search=search, graph=graph, batch=batch)
        for batch in batches
        for graph in (False, True)
        for search in searches
    )
    return tuple(settings for settings in made if settings != plain)


def choose(outcomes: Sequence[Outcome], plain: CudaSettings) -> tuple[CudaSettings, str]:
    """Return the settings to use, and the reason in one sentence.

    Args:
        outcomes: Measurements, simpler settings first.
        plain: The plain settings, which are kept unless others are better.
    """
    better = [outcome for outcome in outcomes if not outcome.refusal]
    if not better:
        others = counted(len(outcomes), "alternative")
        return plain, f"the plain settings: none of {others} passed the trial on this machine"
    fastest = min(outcome.ratio for outcome in better)
    chosen = next(outcome for outcome in better if outcome.ratio <= fastest * (1 + TIE))
    return chosen.settings, f"fastest in the trial on this machine ({chosen.times})"
