"""Write a bundle as models of a Triton Inference Server repository.

Each ONNX graph that was checked with ONNX Runtime becomes a model of Triton's `onnxruntime` backend, and each
TensorRT engine a model of its `tensorrt` backend. TensorRT-RTX and OpenVINO engines are not written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import MODEL_FILE, Engine, Tensor
from gcis_runtime.bundles.store import slugify
from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import replacing, replacing_folder, unwritable

CONFIG_FILE = "config.pbtxt"
_BACKENDS = {
    "onnx": ("onnxruntime", "model.onnx", "KIND_AUTO"),
    "trt": ("tensorrt", "model.plan", "KIND_GPU"),
}


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """One model of the repository.

    Attributes:
        name: Name of the model and of its folder.
        version: Version that was added; 1 for a new model.
        folder: Folder of the model.
    """

    name: str
    version: int
    folder: Path


def write_triton(bundle: Bundle, repository: Path) -> tuple[TritonModel, ...]:
    """Add the graphs and engines of a bundle to a model repository.

    An existing model gets a new version, and its configuration is changed to serve that version only.

    Args:
        bundle: A verified bundle.
        repository: Folder of the repository; it is created if missing.

    Returns:
        The models, in the order of the engines in the manifest.

    Raises:
        OutputError: The repository cannot be written, an existing model has other inputs or outputs, or the
            bundle has neither a graph nor an engine that Triton can serve.
    """
    chosen: dict[str, tuple[Engine, str]] = {}
    for engine in bundle.manifest.engines:
        if engine.backend in _BACKENDS:
            chosen.setdefault(_name(bundle, engine), (engine, _tensors(bundle, engine)))
    if not chosen:
        raise OutputError(
            f"bundle {bundle.name!r} has no graph or engine that Triton can serve",
            received=", ".join(e.backend for e in bundle.manifest.engines) or "no engine",
            expected=" or ".join(_BACKENDS),
            fix="Export it with --engine onnx.",
        )
    for name, (_, tensors) in chosen.items():
        _check_same_tensors(repository / name, tensors)
    try:
        return tuple(_add(bundle, repository / name, engine) for name, (engine, _) in chosen.items())
    except OSError as error:
        raise unwritable(repository, error) from error


def config(bundle: Bundle, engine: Engine, *, name: str) -> str:
    """Return the `config.pbtxt` of a model.

    Shapes are static and include the batch size, so batching by Triton is off (`max_batch_size: 0`, and no
    `dynamic_batching`). The warm-up runs one empty window when the model is loaded. Parameters named `gcis_*`
    hold the labels, preprocessing and window as JSON for clients.
    """
    backend, file, kind = _BACKENDS[engine.backend]
    m = bundle.manifest
    dims = ", ".join(map(str, (engine.batch, *m.input.shape[1:])))
    parameters = {
        "gcis_bundle": m.name,
        "gcis_bundle_sha256": bundle.sha256,
        "gcis_precision": engine.precision,
        "gcis_labels": _json(m.labels),
        "gcis_preprocess": _json(m.preprocess),
        "gcis_window": _json(m.window),
        "gcis_notice": m.notice,
    }
    parts = [
        f"name: {quoted(name)}",
        f"backend: {quoted(backend)}",
        f"default_model_filename: {quoted(file)}",
        "max_batch_size: 0",
        _tensors(bundle, engine),
        "version_policy { latest { num_versions: 1 } }",
        f"instance_group [ {{ kind: {kind} count: 1 }} ]",
        "model_warmup [\n  {\n"
        '    name: "an empty window"\n    batch_size: 1\n'
        f"    inputs {{ key: {quoted(m.input.name)} "
        f"value {{ data_type: TYPE_FP32 dims: [ {dims} ] zero_data: true }} }}\n"
        "  }\n]",
        *(
            f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(parts) + "\n"


def _name(bundle: Bundle, engine: Engine) -> str:
    """Return the model name: the bundle name, for other graphs with engine, precision and batch size."""
    slug = slugify(bundle.name)
    if engine.file == MODEL_FILE:
        return slug
    batch = "" if engine.batch == 1 else f"-b{engine.batch}"
    compiled = f"-{engine.backend}-{slugify(engine.device)}" if engine.file != engine.graph else ""
    return f"{slug}{compiled}-{engine.precision}{batch}"


def _tensors(bundle: Bundle, engine: Engine) -> str:
    """Return the inputs and outputs of the configuration."""
    m = bundle.manifest
    return "\n".join(_tensor(kind, t, engine.batch) for kind, t in (("input", m.input), ("output", m.output)))


def _tensor(kind: str, tensor: Tensor, batch: int) -> str:
    dims = ", ".join(map(str, (batch, *tensor.shape[1:])))
    return f"{kind} [ {{ name: {quoted(tensor.name)} data_type: TYPE_FP32 dims: [ {dims} ] }} ]"


def _check_same_tensors(model: Path, tensors: str) -> None:
    """Raise if an existing model has other inputs or outputs: its versions share one configuration."""
    file = model / CONFIG_FILE
    if not model.exists():
        return
    if not file.is_file() or tensors not in file.read_text(encoding="utf-8"):
        raise OutputError(
            f"{model} contains a different model",
            received="other inputs or outputs" if file.is_file() else f"no {CONFIG_FILE}",
            expected=" ".join(tensors.split()),
            fix="Give the bundle another --name, or another repository with --triton.",
        )


def _add(bundle: Bundle, model: Path, engine: Engine) -> TritonModel:
    """Add a version to a model; a new model is written with its configuration in one step."""
    text = config(bundle, engine, name=model.name)
    content, file = _content(bundle, engine), _BACKENDS[engine.backend][1]
    version = max(versions(model), default=0) + 1
    if version == 1 and not model.exists():
        with replacing_folder(model) as folder:
            (folder / "1").mkdir()
            (folder / "1" / file).write_bytes(content)
            (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    else:
        with replacing_folder(model / str(version)) as folder:
            (folder / file).write_bytes(content)
        with replacing(model / CONFIG_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return TritonModel(name=model.name, version=version, folder=model)


def _content(bundle: Bundle, engine: Engine) -> bytes:
    """Return the verified file that Triton loads; a graph contains all its weights."""
    return bundle.graph(engine.file) if engine.file == engine.graph else bundle.read(engine.file)


def versions(model: Path) -> Sequence[int]:
    """Return the version numbers of a model; Triton ignores folders with other names."""
    if not model.is_dir():
        return ()
    return [int(p.name) for p in model.iterdir() if p.is_dir() and re.fullmatch(r"[1-9]\d*", p.name)]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def quoted(text: str) -> str:
    """Return a string literal in protobuf text format, with bytes outside printable ASCII in octal."""
    escaped = "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\{b:03o}" for b in text.encode()
    )
    return f'"{escaped}"'
