"""Write a finished bundle in the other formats of a request: Triton model repository and MONAI bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gcis_export.options import ExportRequest
from gcis_export.targets.monai_bundle import METADATA, check_monai_target, write_monai_bundle
from gcis_export.targets.triton import CONFIG_FILE, write_triton
from gcis_export.targets.triton_case.write import write_triton_case
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.system.rehearsal import check_writable


def check_targets(request: ExportRequest) -> None:
    """Raise before the export starts if a target cannot be written.

    Raises:
        OutputError: A target cannot be written, or would replace something other than a MONAI bundle.
    """
    if request.triton is not None:
        check_writable(request.triton / CONFIG_FILE)
    if request.triton_case is not None:
        check_writable(request.triton_case / CONFIG_FILE)
    if request.monai_bundle is not None:
        check_monai_target(request.monai_bundle)
        check_writable(request.monai_bundle / METADATA)


def target_notes(request: ExportRequest) -> tuple[str, ...]:
    """Return notes about settings that the targets of a request lack; whole-case models have all."""
    targets = {"Triton models": request.triton, "MONAI bundles": request.monai_bundle}
    written = [name for name, folder in targets.items() if folder is not None]
    if not written or all(rules is None for _, rules in request.post):
        return ()
    return (f"only gcis-run applies the rules of --post: {' and '.join(written)} give raw labels",)


def write_targets(request: ExportRequest, folder: Path, on_step: Callable[[str], None]) -> tuple[Path, ...]:
    """Write the bundle in `folder` to the targets of a request.

    Args:
        request: Names the targets.
        folder: Finished bundle.
        on_step: Called with a line of text before each target.

    Returns:
        The folders that were written: Triton models, whole-case model, MONAI bundle.

    Raises:
        OutputError: A target cannot be written.
    """
    folders: list[Path] = []
    if request.triton is not None:
        on_step("adding the bundle to the Triton model repository")
        folders += [model.folder for model in write_triton(open_bundle(folder), request.triton)]
    if request.triton_case is not None:
        on_step("adding the bundle to the Triton model repository as a whole-case model")
        folders.append(write_triton_case(open_bundle(folder), request.triton_case).folder)
    if request.monai_bundle is not None:
        on_step("writing the MONAI bundle")
        folders.append(write_monai_bundle(open_bundle(folder), request.monai_bundle))
    return tuple(folders)
