"""Write a bundle as a whole-case model of a Triton repository: a CT file in, a label file and a report out.

The model runs gCIS in Triton's Python backend. Unlike the window models of `targets.triton`, it does all that
`gcis-run` does, so that clients need no preprocessing.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from gcis_export.targets.triton import CONFIG_FILE, TritonModel, quoted, versions
from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE
from gcis_runtime.bundles.store import slugify
from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import replacing, replacing_folder, unwritable

_MODEL, _BUNDLE = "model.py", "bundle.gcis"
_TENSORS = (
    'input [ { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] } ]\n'
    'output [ { name: "labels" data_type: TYPE_UINT8 dims: [ -1 ] },\n'
    '         { name: "report" data_type: TYPE_UINT8 dims: [ -1 ] } ]'
)


def write_triton_case(bundle: Bundle, repository: Path) -> TritonModel:
    """Add a bundle to a model repository as a whole-case model, `NAME-case`.

    An existing model gets a new version, and its configuration is changed to serve that version only.

    Args:
        bundle: A verified bundle.
        repository: Folder of the repository; it is created if missing.

    Raises:
        OutputError: The repository cannot be written, or the model exists with other inputs and outputs.
    """
    model = repository / f"{slugify(bundle.name)}-case"
    config = model / CONFIG_FILE
    if model.exists() and not (config.is_file() and _TENSORS in config.read_text(encoding="utf-8")):
        raise OutputError(
            f"{model} contains a different model",
            expected="a whole-case model that an earlier export wrote",
            fix="Give the bundle another --name, or another repository with --triton-case.",
        )
    number = max(versions(model), default=0) + 1
    try:
        if number == 1 and not model.exists():
            with replacing_folder(model) as folder:
                _write_version(bundle, folder / "1")
                (folder / CONFIG_FILE).write_text(case_config(bundle, name=model.name), encoding="utf-8")
        else:
            with replacing_folder(model / str(number)) as folder:
                _write_version(bundle, folder)
            with replacing(config) as temporary:
                temporary.write_text(case_config(bundle, name=model.name), encoding="utf-8")
    except OSError as error:
        raise unwritable(repository, error) from error
    return TritonModel(name=model.name, version=number, folder=model)


def case_config(bundle: Bundle, *, name: str) -> str:
    """Return the `config.pbtxt` of a whole-case model.

    An instance uses the CPU with all its processors; `KIND_GPU` selects a GPU. The parameters `gcis_engine`,
    `gcis_precision` and `gcis_threads` are those of `gcis-run`.
    """
    parameters = {
        "gcis_engine": "auto",
        "gcis_precision": "auto",
        "gcis_threads": "",
        "gcis_bundle": bundle.name,
        "gcis_bundle_sha256": bundle.sha256,
        "gcis_notice": bundle.manifest.notice,
    }
    lines = [
        f"name: {quoted(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        _TENSORS,
        "version_policy { latest { num_versions: 1 } }",
        "instance_group [ { kind: KIND_CPU count: 1 } ]",
        *(
            f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _write_version(bundle: Bundle, folder: Path) -> None:
    """Write the program and a copy of the bundle, whose files are verified again when Triton opens it."""
    target = folder / _BUNDLE
    target.mkdir(parents=True)
    (folder / _MODEL).write_bytes(files(__package__).joinpath(_MODEL).read_bytes())
    shutil.copyfile(bundle.folder / MANIFEST_FILE, target / MANIFEST_FILE)
    for entry in bundle.manifest.files:
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle.read(entry.path))
