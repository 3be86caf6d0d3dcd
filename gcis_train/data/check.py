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
from gcis_runtime.images.grid import TOLERANCE, Grid
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.warnings import intensity_warnings
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.data.flips import FlipCheck
from gcis_train.data.masks import masks_of
from gcis_train.data.orientations import describe_mixture
from gcis_train.data.placement import Placement
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
        moved_mm: Largest distance in mm between voxels by the header of a label file and by that of the image
            where the image places the labels (`label_geometry`); None where the label files do.
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
    moved_mm: float | None = None
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def add(self, level: Level, message: str) -> None:
        """Add a problem of this case."""
        self.problems.append(Problem(level=level, where=f"{self.split} case {self.name}", message=message))

    @property
    def moved(self) -> bool:
        """Whether the header of a label file differs from that of the image, which places the labels."""
        if self.grid is None or self.moved_mm is None:
            return False
        return self.moved_mm > TOLERANCE * min(self.grid.spacing)

    @property
    def broken(self) -> bool:
        """Whether the case has an error."""
        return any(p.level == "error" for p in self.problems)


def check_datalist(
    path: Path,
    *,
    prompt: str = "",
    headers_only: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[CaseFacts], list[Problem]]:
    """Read all files of a datalist.

    Args:
        path: The datalist.
        prompt: Prompt of rows without one.
        headers_only: Compare grids without reading voxels: seconds instead of minutes, but label values,
            intensities and copies are not checked.
        progress: Called with one line per case.

    Returns:
        The contents of each case, and all problems: those of the cases, then those of the whole list.

    Raises:
        DataError: The datalist itself is not valid.
    """
    rows = read_datalist(path, prompt=prompt)
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
        volume = None if headers_only else read_volume(case.image)
        if volume is not None:
            _check_image(facts, volume)
    except ImageError as error:
        facts.add("error", str(error))
        return facts
    places = dict.fromkeys((file, target.placement) for target in case.targets for file in target.labels)
    broken = [file for file, placement in places if not _check_label_grid(facts, grid, file, placement)]
    if broken or volume is None:
        return facts
    try:
        _check_masks(facts, case, grid, volume)
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


def _check_label_grid(facts: CaseFacts, image: Grid, file: Path, placement: Placement) -> bool:
    """Compare the header of a label file with that of the image; return whether the file can be used."""
    try:
        shift = placement.check(file, image)
    except ImageError as error:
        facts.add("error", str(error))
        return False
    if placement.geometry == "image":
        facts.moved_mm = max(shift, facts.moved_mm or 0.0)
    return True


def _check_masks(facts: CaseFacts, case: Case, grid: Grid, volume: Volume) -> None:
    """Measure every structure; find unused label values, exchanged sides and reversed labels."""
    named: dict[Path, set[int] | None] = {}
    for target in case.targets:
        for file in target.labels:
            known = named.setdefault(file, set())
            named[file] = None if known is None or target.values is None else known | set(target.values)

    def read(file: Path, placement: Placement) -> npt.NDArray[Any]:
        values = placement.read(file, grid)
        known = named[file]
        if known is not None:
            facts.unnamed |= {int(v) for v in np.unique(values) if v > 0 and int(v) not in known}
        return values

    rightward: dict[str, float] = {}
    checks: dict[Placement, FlipCheck] = {}
    for target, mask in zip(case.targets, masks_of(case.targets, read), strict=True):
        facts.volumes[target.prompt] = float(mask.sum()) * grid.voxel_ml
        checks.setdefault(target.placement, FlipCheck(volume.array)).add(mask)
        if mask.any() and other_side(target.prompt) is not None:
            rightward[target.prompt] = _rightward(grid, mask)
    for prompt, place in rightward.items():
        other = other_side(prompt) or ""
        if "left" in prompt.lower() and other in rightward and place > rightward[other]:
            facts.add("warning", f"{prompt!r} is to the right of {other!r}: are left and right exchanged?")
    for placement, check in checks.items():
        if found := check.result():
            # Training refuses them only where no header of the label file confirms its order of voxels.
            level: Level = "error" if placement.geometry == "image" else "warning"
            facts.add(level, f"{found.text}. {found.remedy(placement)}")


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
    """Warn of mixed orientations, which a training without --orientation refuses."""
    mixture = describe_mixture((f.grid.orientation, str(f.image)) for f in facts if f.grid is not None)
    if mixture is None:
        return []
    message = f"mixed, {mixture}: train with --orientation RAS"
    return [Problem(level="warning", where="orientation", message=message)]
