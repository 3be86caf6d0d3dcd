"""Open ONNX Runtime on a GPU with the settings that a trial on this machine chose, if there was one."""

from __future__ import annotations

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.choices import PrecisionChoice
from gcis_runtime.engines.graph_choice import has_graph
from gcis_runtime.engines.onnx.cuda import OnnxCudaSession
from gcis_runtime.engines.onnx.cuda_precision import automatic_precision
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings
from gcis_runtime.engines.onnx.measured_settings import MeasuredSettings, find_settings
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.usable import reason_of
from gcis_runtime.errors import EngineError


def open_on_cuda(bundle: Bundle, options: EngineOptions) -> OnnxCudaSession:
    """Open a session with the settings of a trial, otherwise with the plain settings.

    If the session cannot be opened with the settings of a trial, the plain settings are used, and a note says
    why. `session.settings_text` says which settings are used and why.

    Args:
        bundle: The verified bundle.
        options: The engine. With TF32 or another number of windows per run, trials do not apply.

    Raises:
        EngineError: See `OnnxCudaSession`.
        DeviceMemoryError: The GPU has too little memory.
    """
    record = _find(bundle, options)
    if record is None or not _applies(record, options):
        session = _open(bundle, options, None)
        why = "no trial was made on this machine" if record is None else "the trial is not used"
        session.settings_text = f"{session.settings.text}: the plain settings, {why}"
        return session
    try:
        session = _open(bundle, options, record.settings)
    except EngineError as error:  # also if memory is too small
        session = _open(bundle, options, None)
        session.notes += (
            f"the settings of the trial ({record.settings.text}) cannot be opened ({reason_of(error)}): "
            "continuing with the plain settings",
        )
        session.settings_text = f"{session.settings.text}: the plain settings, those of the trial failed"
        return session
    session.settings_text = f"{record.settings.text}: {record.reason}, {record.date}"
    session.measured = "" if record.keeps_plain else record.settings.text
    return session


def _open(bundle: Bundle, options: EngineOptions, settings: CudaSettings | None) -> OnnxCudaSession:
    return OnnxCudaSession(
        bundle,
        device=options.device,
        precision=options.precision,
        batch=options.batch,
        tf32=options.tf32,
        settings=settings,
    )


def _find(bundle: Bundle, options: EngineOptions) -> MeasuredSettings | None:
    precision = trial_precision(bundle, options.device, options.precision)
    if not has_graph(bundle.manifest, precision):
        return None
    return find_settings(bundle, precision=precision, device=options.device)


def trial_precision(bundle: Bundle, device: str, precision: PrecisionChoice) -> str:
    """Return the precision that a session will compute in.

    Raises:
        EngineError: There is no such GPU.
    """
    return automatic_precision(bundle, device).precision if precision == "auto" else precision


def _applies(record: MeasuredSettings, options: EngineOptions) -> bool:
    same = options.batch in (None, record.settings.batch)
    return options.measured_settings and same and not options.tf32
