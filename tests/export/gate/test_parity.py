"""Test that the gate detects a difference at each stage and names the stage."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from gcis_export.engines.compare import compare_engines
from gcis_export.gate.check_windows import gather_windows
from gcis_export.gate.parity import (
    EXPORT_MODEL,
    ROUNDED,
    ROUTED,
    STATIC,
    Gate,
    Reference,
    References,
    check_networks,
    check_rounding,
)
from gcis_export.graph.network import ExportNet
from gcis_export.resolve import resolve
from gcis_runtime.bundles.manifest import ParityRow
from gcis_runtime.engines.parity import LIMITS
from gcis_runtime.errors import BundleError, EngineError, ParityError
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec
from tests.support.export_cases import ROI


class _Identity(torch.nn.Module):
    """A cheap network, which scales the window."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scale * (image - 0.5)


@pytest.fixture
def gate():
    return Gate([np.random.default_rng(0).random((1, 1, *ROI), dtype=np.float32)])


def test_a_changed_static_network_is_caught(checkpoint, gate):
    resolution = resolve(checkpoint, ["larynx"])
    with torch.no_grad():
        resolution.network.encoder.encoder2.conv1.weight[:, 0] *= 1.1  # not all: the norm would undo it
    with pytest.raises(ParityError, match=f"^{STATIC} differs from PyTorch routed"):
        check_networks(gate, resolution, _Identity())


def test_a_changed_export_model_is_caught(checkpoint, gate, monkeypatch):
    resolution = resolve(checkpoint, ["larynx"])
    export_model = ExportNet(resolution.network, ROI)
    with torch.no_grad():
        export_model.encoder.swin.stages[0].blocks[1].attention.table.mul_(1.5)
    monkeypatch.setattr("gcis_export.gate.parity._routed", _static)
    with pytest.raises(ParityError, match=f"^{EXPORT_MODEL} differs from {STATIC}"):
        check_networks(gate, resolution, export_model)
    assert [row.passed for row in gate.rows] == [True, False]


def _static(resolution, window):
    with torch.no_grad():
        return resolution.network(torch.from_numpy(window)).numpy()


def test_rounding_that_goes_too_far_is_caught(gate):
    exact = Reference(name=STATIC, answers=gate.answers(lambda w: w - np.float32(0.5)))
    check_rounding(gate, _Identity(1.0005), exact)
    with pytest.raises(ParityError, match=f"^{ROUNDED} differs from"):
        check_rounding(gate, _Identity(1.1), exact)


class _Session:
    """Stub of an engine: the window minus a half, times a factor."""

    version = "1.0"

    def __init__(self, factor: float, precision: str) -> None:
        self.factor, self.precision = np.float32(factor), precision

    def run(self, window):
        return (window - np.float32(0.5)) * self.factor

    def close(self):
        pass


@pytest.fixture
def engines(gate, monkeypatch, tmp_path):
    """Compare stand-in engines whose factors are given by engine and precision."""
    answers = gate.answers(lambda w: w - np.float32(0.5))
    network = Reference(name=STATIC, answers=answers)
    references = References(network=network, exact=network)
    monkeypatch.setattr("gcis_export.engines.compare.open_bundle", lambda folder: folder)

    def run(factors, precision="fp32", really={}):  # noqa: B006 (never changed)
        def open_session(bundle, options):
            engine, precision = options.engine, options.precision
            factor = factors[engine, precision]
            if factor is None:
                raise EngineError("this CPU has no bf16")
            return _Session(factor, really.get((engine, precision), precision))

        monkeypatch.setattr("gcis_export.engines.compare.open_session", open_session)
        monkeypatch.setattr(
            "gcis_export.engines.onnx.read_precision", lambda file: really.get(("onnx", "fp32"), "fp32")
        )
        names = ("onnx", "openvino")
        return compare_engines(tmp_path, gate, names, references=references, precision=precision)

    return run


GOOD = {("onnx", "fp32"): 1.0, ("openvino", "fp32"): 1.0, ("openvino", "bf16"): 1.01}


def test_good_engines_are_listed(engines, gate):
    found, notes = engines(GOOD)
    assert [(e.backend, e.precision) for e in found] == [
        ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
    ]  # fmt: skip
    assert notes == () and all(row.passed for row in gate.rows)


@pytest.mark.parametrize(("engine", "title"), [("onnx", "ONNX Runtime 1.0"), ("openvino", "OpenVINO 1.0")])
def test_a_wrong_engine_is_caught(engines, engine, title):
    with pytest.raises(ParityError, match=f"^{title} differs from {STATIC}"):
        engines(GOOD | {(engine, "fp32"): 1.01})


def test_bf16_that_fails_is_left_out_and_said(engines, gate):
    found, notes = engines(GOOD | {("openvino", "bf16"): -1.0})
    assert ("openvino", "bf16") not in [(e.backend, e.precision) for e in found]
    assert "does not offer it" in notes[0]
    assert not gate.rows[-1].passed and gate.rows[-1].tolerance_labels == LIMITS["bf16"].labels
    assert gate.rows[-1].graph == "model.onnx"


def test_bf16_that_was_asked_for_must_hold(engines):
    with pytest.raises(ParityError, match=r"^OpenVINO"):
        engines(GOOD | {("openvino", "bf16"): -1.0}, precision="bf16")


def test_int8_that_was_asked_for_is_run_from_its_own_graph(engines, gate):
    both = GOOD | {("openvino", "int8"): 0.95}
    found, _ = engines(both, precision="int8")
    eights = [(e.backend, e.graph, e.file) for e in found if e.precision == "int8"]
    assert eights == [("openvino", "model.int8.onnx", "model.int8.onnx")]  # ONNX Runtime would widen it
    with pytest.raises(ParityError, match=r"^OpenVINO"):
        engines(both | {("openvino", "int8"): -1.0}, precision="int8")


@pytest.mark.parametrize(
    ("engine", "asked"), [("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "int8")], ids=str
)
def test_an_engine_that_computes_in_another_precision_is_refused(engines, engine, asked):
    factors = GOOD | {("openvino", "int8"): 0.95}
    with pytest.raises(EngineError, match=f"other than the requested one.*received fp16; expected {asked}"):
        engines(factors, precision=asked, really={(engine, asked): "fp16"})


def test_a_cpu_without_bf16_is_said(engines):
    found, notes = engines(GOOD | {("openvino", "bf16"): None})
    assert len(found) == 2 and notes == ("bf16 was not checked: this CPU has no bf16",)
    with pytest.raises(EngineError):
        engines(GOOD | {("openvino", "bf16"): None}, precision="bf16")


def test_an_engine_with_another_output_is_named(gate, monkeypatch, tmp_path):
    def open_session(bundle, options):
        raise BundleError("the graph's output is not the one", received="logits", expected="margins")

    monkeypatch.setattr("gcis_export.engines.compare.open_bundle", lambda folder: folder)
    monkeypatch.setattr("gcis_export.engines.compare.open_session", open_session)
    network = Reference(name=STATIC, answers=())
    with pytest.raises(
        ParityError, match=r"^OpenVINO did not load the exported graph.*logits; expected margins"
    ):
        compare_engines(
            tmp_path,
            gate,
            ("openvino",),
            references=References(network=network, exact=network),
            precision="fp32",
        )


def row(**changes):
    return ParityRow(
        **{
            "stage": ROUTED, "reference": STATIC, "precision": "fp32", "windows": 1, "max_abs": 0.0,
            "scale": 1.0,
            "labels_changed": 0.0, "tolerance_abs": 1.0, "tolerance_labels": 0.0,
        } | changes
    )  # fmt: skip


def test_what_the_windows_could_not_show_is_said(gate):
    gate.rows = [row(dice=1.0, undecided=0.0004)]
    assert gate.remarks() == ()
    gate.rows = [row(dice=None, undecided=0.2)]
    absent, untrained = gate.remarks()
    assert "--check" in absent and "leaves 20.0 % of voxels undecided" in untrained


def test_windows_cover_the_phantoms_structures_and_a_constant_one():
    spec = PreprocessSpec(orientation="LPS", spacing=(4.0, 4.0, 4.0))
    windows, source = gather_windows((), spec=spec, window=WindowSpec(patch_size=ROI))
    assert [w.shape for w in windows] == [(1, 1, *ROI)] * 3
    assert windows[0].std() > 0.1 and not windows[-1].any()
    assert "phantom" in source


def test_the_constant_window_is_what_surrounds_a_volume(tmp_path):
    values = np.random.default_rng(0).integers(-200, 300, (70, 70, 70)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "ct.nii.gz")
    window = WindowSpec(patch_size=ROI, padding_value=0.25)
    windows, source = gather_windows(
        (tmp_path / "ct.nii.gz",), spec=PreprocessSpec(spacing=None), window=window, each=1
    )
    assert len(windows) == 2 and (windows[-1] == 0.25).all()
    assert source == "1 case and a constant window"


def test_windows_lie_on_what_is_not_air_where_the_rule_says_so(tmp_path):
    """A block in a corner of air: with the rule, it fills the middle of one window, with zeros around it."""
    values = np.full((90, 80, 70), -1000, np.int16)
    values[3:33, 40:70, 5:35] = 40
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "ct.nii.gz")
    found = {}
    for rule in ({}, {"foreground": Foreground()}):
        spec = PreprocessSpec(spacing=None, **rule)
        windows, _ = gather_windows(
            (tmp_path / "ct.nii.gz",), spec=spec, window=WindowSpec(patch_size=ROI), each=1
        )
        found[bool(rule)] = windows[0][0, 0]
    middle = np.zeros(ROI, bool)
    middle[17:47, 17:47, 17:47] = True
    np.testing.assert_array_equal(found[True] > 0, middle)
    assert np.any((found[False] > 0) != middle)
