"""Is a datalist fit to train on? Every file is read once, and what is wrong or odd is named.

Errors are what training would stop at or what would make its numbers worthless (a case on both sides of the
split); warnings are what a person should look at.
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
from gcis_runtime.images.volume import check_affine, check_shape
from gcis_runtime.pipeline.warnings import intensity_warnings
from gcis_train.data.datalist import Case, group_cases, read_datalist
from gcis_train.data.images import Grid, masks_of, read_array, read_grid
from gcis_train.data.sides import other_side

Level = Literal["error", "warning"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong (`error`) or odd (`warning`), and where."""

    level: Level
    where: str
    message: str


@dataclasses.dataclass(kw_only=True)
class CaseFacts:
    """What a case's files hold.

    Attributes:
        name: The case.
        split: `training` or `validation`.
        image: Its CT file.
        grid: The image's grid; None where it cannot be read.
        hu: Smallest and largest intensity; None unless voxels were read.
        fingerprint: Hash of the rounded voxels in RAS order, the same for a copy in another format.
        volumes: mL of each structure; 0 for one without a voxel.
        unnamed: Label values that no row names.
        problems: What was found.
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
        """Note a problem of this case."""
        self.problems.append(Problem(level=level, where=f"{self.split} case {self.name}", message=message))

    @property
    def broken(self) -> bool:
        """Whether training would stop at it."""
        return any(p.level == "error" for p in self.problems)


def check_datalist(
    path: Path, *, headers_only: bool = False, progress: Callable[[str], None] = lambda _: None
) -> tuple[list[CaseFacts], list[Problem]]:
    """Read everything that a datalist names.

    Args:
        path: The datalist.
        headers_only: Compare grids without reading voxels: seconds instead of minutes, but labels, HU and
            copies go unchecked.
        progress: Told one line a case.

    Returns:
        What each case holds, and all problems: those of the cases, then those of the whole list.

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
    problems += _copies(facts)
    prompts = {split: Counter(r.prompt for r in rs) for split, rs in lists.items()}
    problems += _prompts(prompts, facts, headers_only=headers_only)
    problems += _mixture(facts)
    return facts, problems


def check_case(case: Case, *, split: str, headers_only: bool = False) -> CaseFacts:
    """Read one case's files."""
    facts = CaseFacts(name=case.name, split=split, image=case.image)
    try:
        facts.grid = read_grid(case.image)
        check_shape(facts.grid.shape)
        check_affine(facts.grid.affine)
        if not headers_only:
            _check_image(facts, read_array(case.image))
    except (DataError, ImageError) as error:
        facts.add("error", str(error))
        return facts
    named: dict[Path, set[int] | None] = {}
    for target in case.targets:
        for file in target.labels:
            known = named.setdefault(file, set())
            named[file] = None if known is None or target.values is None else known | set(target.values)
    broken = [file for file in named if not _check_label_grid(facts, file)]
    if broken or headers_only:
        return facts
    try:
        _check_masks(facts, case, named)
    except DataError as error:
        facts.volumes.clear()
        facts.add("error", str(error))
    return facts


def _check_image(facts: CaseFacts, array: npt.NDArray[Any]) -> None:
    """Note intensities and the fingerprint."""
    if not np.isfinite(array).all():
        facts.add("error", "the image has voxels that are not finite")
        return
    facts.hu = float(array.min()), float(array.max())
    for warning in intensity_warnings(array):
        facts.add("warning", warning)
    if facts.grid is not None:
        upright = nib.orientations.apply_orientation(array, nib.io_orientation(facts.grid.affine))
        voxels = np.ascontiguousarray(np.rint(upright), dtype=np.int32)
        facts.fingerprint = hashlib.sha256(str(voxels.shape).encode() + voxels.tobytes()).hexdigest()


def _check_label_grid(facts: CaseFacts, file: Path) -> bool:
    """Compare a label file's grid with the image's; tell whether it can be used."""
    try:
        grid = read_grid(file)
    except DataError as error:
        facts.add("error", str(error))
        return False
    image = facts.grid
    if image is None or grid.matches(image):
        return image is not None
    found, wanted = (
        (f"shape {g.shape}" if grid.shape != image.shape else f"affine {np.round(g.affine[:3], 3).tolist()}")
        for g in (grid, image)
    )
    facts.add("error", f"label {file.name} is on another grid: {found}, the image's {wanted}")
    return False


def _check_masks(facts: CaseFacts, case: Case, named: dict[Path, set[int] | None]) -> None:
    """Measure every structure, and note values that no row names and sides that look exchanged."""
    if facts.grid is None:
        return
    voxel_ml = abs(float(np.linalg.det(facts.grid.affine[:3, :3]))) / 1000.0

    def read(file: Path) -> npt.NDArray[Any]:
        array = read_array(file)
        whole: npt.NDArray[Any] = np.rint(array)
        if not np.array_equal(whole, array):
            facts.add("warning", f"label {file.name} has values that are not whole numbers: they are rounded")
        known = named[file]
        if known is not None:
            facts.unnamed |= {int(v) for v in np.unique(whole) if v > 0 and int(v) not in known}
        return whole

    rightward: dict[str, float] = {}
    for target, mask in zip(case.targets, masks_of(case.targets, read), strict=True):
        facts.volumes[target.prompt] = float(mask.sum()) * voxel_ml
        if mask.any() and other_side(target.prompt) is not None:
            rightward[target.prompt] = _rightward(facts.grid, mask)
    for prompt, place in rightward.items():
        other = other_side(prompt) or ""
        if "left" in prompt.lower() and other in rightward and place > rightward[other]:
            facts.add("warning", f"{prompt!r} lies to the right of {other!r}: are the sides exchanged?")


def _rightward(grid: Grid, mask: npt.NDArray[np.bool_]) -> float:
    """Return the centroid's coordinate towards the patient's right, mm."""
    centre = [np.average(np.arange(n), weights=_along(mask, axis)) for axis, n in enumerate(mask.shape)]
    return float((grid.affine @ np.array([*centre, 1.0]))[0])


def _along(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    return np.asarray(mask.sum(axis=tuple(a for a in range(mask.ndim) if a != axis)))


def _copies(facts: Iterable[CaseFacts]) -> list[Problem]:
    """Name images that are in the list twice; between training and validation that is an error."""
    same: dict[str, list[CaseFacts]] = defaultdict(list)
    for fact in facts:
        same[str(fact.image.resolve())].append(fact)
        if fact.fingerprint:
            same[fact.fingerprint].append(fact)
    problems = []
    told = set()
    for group in same.values():
        names = tuple(f"{f.split} {f.name}" for f in group)
        if len(group) < 2 or names in told:
            continue
        told.add(names)
        across = len({f.split for f in group}) > 1
        message = "are one image: validation would measure memory" if across else "are one image"
        level: Level = "error" if across else "warning"
        problems.append(Problem(level=level, where=" and ".join(names), message=message))
    return problems


def _prompts(
    prompts: dict[str, Counter[str]], facts: list[CaseFacts], *, headers_only: bool
) -> list[Problem]:
    """Compare the structures of both lists, and rows with voxels."""
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
            message = "no row has a voxel: is its label_value right?"
            problems.append(Problem(level="error", where=repr(prompt), message=message))
        elif empty:
            message = f"{empty} of {len(volumes)} rows have no voxel"
            problems.append(Problem(level="warning", where=repr(prompt), message=message))
    unnamed = Counter(value for f in facts for value in f.unnamed)
    for value, count in sorted(unnamed.items()):
        message = f"no row names it; {count} cases have it"
        problems.append(Problem(level="warning", where=f"label value {value}", message=message))
    return problems


def _mixture(facts: Iterable[CaseFacts]) -> list[Problem]:
    """Warn of several orientations: the published recipe keeps the file's."""
    counts = Counter(f.grid.orientation for f in facts if f.grid is not None)
    if len(counts) < 2:
        return []
    mix = ", ".join(f"{code} {n}" for code, n in counts.most_common())
    message = f"mixed ({mix}): train with --orientation RAS"
    return [Problem(level="warning", where="orientation", message=message)]
