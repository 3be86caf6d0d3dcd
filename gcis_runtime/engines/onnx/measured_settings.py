"""Store the settings of ONNX Runtime that were fastest on a GPU of this machine, next to a bundle.

The record is in the private cache of the bundle, under the key of `machine_rows`: other hashes, GPUs or
versions find no record. A record that is damaged or does not fit the bundle is ignored.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import onnxruntime as ort

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.graph_choice import choose_graph
from gcis_runtime.engines.machine_rows import find_record, machine_key, store_record
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings, Outcome, choose, plain_settings
from gcis_runtime.engines.usable import version_of

_KIND = "settings"
_CUDNN = ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
"""Distributions of cuDNN, whose algorithms are selected. An installation without pip is not seen."""


class MeasuredSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Result of a trial.

    Attributes:
        schema: Version of the format.
        date: Date of the trial, such as `2026-11-28`.
        precision: Precision of the trial.
        settings: The chosen settings.
        reason: Why they were chosen.
        outcomes: Measurements of all settings except the plain ones.
    """

    schema: Literal[1] = 1
    date: str
    precision: str
    settings: CudaSettings
    reason: str
    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(
        cls, outcomes: tuple[Outcome, ...], plain: CudaSettings, *, precision: str, date: str
    ) -> MeasuredSettings:
        """Choose from the measurements of a trial."""
        settings, reason = choose(outcomes, plain)
        return cls(date=date, precision=precision, settings=settings, reason=reason, outcomes=outcomes)

    @property
    def keeps_plain(self) -> bool:
        """Whether the plain settings were chosen."""
        return all(outcome.settings != self.settings for outcome in self.outcomes)

    def fits(self, bundle: Bundle) -> bool:
        """Return whether the measurements lead to this choice, and the bundle has the graph for it."""
        plain = plain_settings(bundle.manifest, precision=self.precision)
        batches = {g.batch for g in bundle.manifest.graphs if g.precision == self.precision}
        return self.settings.batch in batches and choose(self.outcomes, plain)[0] == self.settings


def find_settings(bundle: Bundle, *, precision: str, device: str) -> MeasuredSettings | None:
    """Return the result of a trial on this machine; None if there is none that can be used.

    Args:
        bundle: The verified bundle.
        precision: A precision that the bundle has.
        device: `"cuda"` or `"cuda:1"`.

    Raises:
        EngineError: There is no such GPU.
    """
    record = find_record(bundle, _KIND, _key(bundle, precision, device), MeasuredSettings)
    fits = record is not None and record.precision == precision and record.fits(bundle)
    return record if fits else None


def store_settings(bundle: Bundle, record: MeasuredSettings, *, device: str) -> bool:
    """Store the result of a trial, which replaces an earlier one. Return whether it could be stored."""
    return store_record(bundle, _KIND, _key(bundle, record.precision, device), record)


def _key(bundle: Bundle, precision: str, device: str) -> dict[str, str]:
    graph = choose_graph(bundle.manifest, precision=precision, batch=1)
    key = machine_key(bundle, graph, engine=f"onnx {ort.__version__}", device=device)
    window = " ".join(map(str, bundle.manifest.input.shape[1:]))
    cudnn = " ".join(version for version in map(version_of, _CUDNN) if version)
    return key | {"precision": precision, "window": window, "cudnn": cudnn}
