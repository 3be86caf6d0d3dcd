"""Check whether a datalist is fit for training: read every file once and collect errors and warnings.

Errors are conditions that stop training or invalidate its scores, such as a case in both training and
validation. Warnings need the judgement of a person.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from gcis_runtime.errors import DataError, ImageError
from gcis_runtime.images.files import read_grid, read_volume
from gcis_runtime.images.grid import Grid, check_same_grid
from gcis_runtime.images.labels import read_labels
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.warnings import intensity_warnings
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.data.masks import masks_of
from gcis_train.data.sides import other_side

Level = Literal["error", "warning"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """An error or a warning.

    Attributes:
        level: `error` or `warning`.
        where: The case, prompt or label value concerned.
        message: The problem.
    """

    level: Level
    where: str
    message: str


@dataclasses.dataclass(kw_only=True)
class CaseFacts:
    """Contents of the files of a case.

    Attributes:
        name: Name of the case.
        split: `training` or `validation`.
        image: CT file.
        grid: Grid of the image; None where it cannot be read.
        hu: Smallest and largest intensity; None unless voxels were read.
        fingerprint: Hash of the rounded voxels in RAS order, equal for a copy in another format.
        volumes: Volume in mL per structure; 0 for a structure without voxels.
        unnamed: Label values that no row uses.
        problems: Errors and warnings.
    """

    name: str
    split: str
    image: Path
    grid: Grid | None = None
    hu: tuple[float, float] | None = None
    fingerprint: str = ""
    volumes: dict[str, float] = dataclasses.field(default_factory=dict)
    unnamed: frozenset[int] = frozenset()
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def add(self, level: Level, message: str) -> None:
        """Add a problem of this case."""
        self.problems.append(Problem(level=level, where=f"{self.split} case {self.name}", message=message))

    @property
    def broken(self) -> bool:
        """Whether the case has an error."""
        return any(p.level == "error" for p in self.problems)


def check_datalist(
    path: Path, *, headers_only: bool = False, progress: Callable[[str], None] = lambda _: None
) -> tuple[list[CaseFacts], list[Problem]]:
    """Read all files of a datalist.

    Args:
        path: The datalist.
        headers_only: Compare grids without reading voxels: seconds instead of minutes, but label values,
            intensities and copies are not checked.
        progress: Called with one line per case.

    Returns:
        The contents of each case, and all problems: those of the cases, then those of the whole list.

    Raises:
        DataError: The datalist itself is not valid.
    """
    rows = read_datalist(path)
    lists = {"training": rows.training, "validation": rows.validation}
    cases = [(split, c) for split, rs in lists.items() for c in group_cases(rs, folder=path.parent)]
    facts = []
    for number, (split, case) in enumerate(cases, start=1):
        facts.append(check_case(case, split=split, headers_only=headers_only))
        state = "broken" if facts[-1].broken else "ok"
        progress(f"{number}/{len(cases)}  {split}  {case.name}  {state}")
    problems = [p for f in facts for p in f.problems]
    problems += [Problem(level="warning", where="datalist", message=note) for note in rows.notes]
    problems += _copies(facts)
    prompts = {split: Counter(r.prompt for r in rs) for split, rs in lists.items()}
    problems += _prompts(prompts, facts, headers_only=headers_only)
    problems += _mixture(facts)
    return facts, problems


def check_case(case: Case, *, split: str, headers_only: bool = False) -> CaseFacts:
    """Read the files of one case."""
    facts = CaseFacts(name=case.name, split=split, image=case.image)
    try:
        grid = facts.grid = read_grid(case.image)
        if not headers_only:
            _check_image(facts, read_volume(case.image))
    except ImageError as error:
        facts.add("error", str(error))
        return facts
    named: dict[Path, set[int] | None] = {}
    for target in case.targets:
        for file in target.labels:
            known = named.setdefault(file, set())
            named[file] = None if known is None or target.values is None else known | set(target.values)
    broken = [file for file in named if not _check_label_grid(facts, grid, file)]
    if broken or headers_only:
        return facts
    try:
        _check_masks(facts, case, grid, named)
    except (DataError, ImageError) as error:
        facts.volumes.clear()
        facts.add("error", str(error))
    return facts


def _check_image(facts: CaseFacts, volume: Volume) -> None:
    """Store the range of intensities and the fingerprint, and check the intensities."""
    facts.hu = float(volume.array.min()), float(volume.array.max())
    for warning in intensity_warnings(volume.array):
        facts.add("warning", warning)
    upright = nib.orientations.apply_orientation(volume.array, nib.io_orientation(volume.affine))
    voxels = np.ascontiguousarray(np.rint(upright), dtype=np.int32)
    facts.fingerprint = hashlib.sha256(str(voxels.shape).encode() + voxels.tobytes()).hexdigest()


def _check_label_grid(facts: CaseFacts, image: Grid, file: Path) -> bool:
    """Compare the grid of a label file with that of the image; return whether the file can be used."""
    try:
        check_same_grid(image, read_grid(file), name=f"label {file.name}")
    except ImageError as error:
        facts.add("error", str(error))
        return False
    return True


def _check_masks(facts: CaseFacts, case: Case, grid: Grid, named: dict[Path, set[int] | None]) -> None:
    """Measure every structure; find unused label values and sides that look exchanged."""

    def read(file: Path) -> npt.NDArray[Any]:
        values = read_labels(file, like=grid).array
        known = named[file]
        if known is not None:
            facts.unnamed |= {int(v) for v in np.unique(values) if v > 0 and int(v) not in known}
        return values

    rightward: dict[str, float] = {}
    for target, mask in zip(case.targets, masks_of(case.targets, read), strict=True):
        facts.volumes[target.prompt] = float(mask.sum()) * grid.voxel_ml
        if mask.any() and other_side(target.prompt) is not None:
            rightward[target.prompt] = _rightward(grid, mask)
    for prompt, place in rightward.items():
        other = other_side(prompt) or ""
        if "left" in prompt.lower() and other in rightward and place > rightward[other]:
            facts.add("warning", f"{prompt!r} is to the right of {other!r}: are left and right exchanged?")


def _rightward(grid: Grid, mask: npt.NDArray[np.bool_]) -> float:
    """Return the coordinate of the centroid towards the patient's right, mm."""
    centre = [np.average(np.arange(n), weights=_along(mask, axis)) for axis, n in enumerate(mask.shape)]
    return float((grid.affine @ np.array([*centre, 1.0]))[0])


def _along(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    return np.asarray(mask.sum(axis=tuple(a for a in range(mask.ndim) if a != axis)))


def _copies(facts: Iterable[CaseFacts]) -> list[Problem]:
    """Find images that occur more than once; in both training and validation this is an error."""
    same: dict[str, list[CaseFacts]] = defaultdict(list)
    for fact in facts:
        same[str(fact.image.resolve())].append(fact)
        if fact.fingerprint:
            same[fact.fingerprint].append(fact)
    problems = []
    reported = set()
    for group in same.values():
        names = tuple(f"{f.split} {f.name}" for f in group)
        if len(group) < 2 or names in reported:
            continue
        reported.add(names)
        across = len({f.split for f in group}) > 1
        message = "are the same image"
        if across:
            message += ": validation would score training cases"
        level: Level = "error" if across else "warning"
        problems.append(Problem(level=level, where=" and ".join(names), message=message))
    return problems


def _prompts(
    prompts: dict[str, Counter[str]], facts: list[CaseFacts], *, headers_only: bool
) -> list[Problem]:
    """Check that validation prompts are trained and that rows have voxels."""
    problems = []
    for prompt in prompts["validation"].keys() - prompts["training"].keys():
        if prompts["training"]:
            message = "has validation rows but no training row"
            problems.append(Problem(level="warning", where=repr(prompt), message=message))
    if headers_only:
        return problems
    for prompt in dict.fromkeys([*prompts["training"], *prompts["validation"]]):
        volumes = [f.volumes[prompt] for f in facts if prompt in f.volumes]
        empty = sum(v == 0 for v in volumes)
        if volumes and empty == len(volumes):
            message = "no row has a voxel: check its label_value"
            problems.append(Problem(level="error", where=repr(prompt), message=message))
        elif empty:
            message = f"{empty} of {len(volumes)} rows have no voxel"
            problems.append(Problem(level="warning", where=repr(prompt), message=message))
    unnamed = Counter(value for f in facts for value in f.unnamed)
    for value, count in sorted(unnamed.items()):
        message = f"not used by any row; {count} cases contain it"
        problems.append(Problem(level="warning", where=f"label value {value}", message=message))
    return problems


def _mixture(facts: Iterable[CaseFacts]) -> list[Problem]:
    """Warn of mixed orientations, since the published recipe keeps the orientation of each file."""
    counts = Counter(f.grid.orientation for f in facts if f.grid is not None)
    if len(counts) < 2:
        return []
    mix = ", ".join(f"{code} {n}" for code, n in counts.most_common())
    message = f"mixed ({mix}): train with --orientation RAS"
    return [Problem(level="warning", where="orientation", message=message)]
