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
from gcis_runtime.metrics import intensity_warnings
from gcis_runtime.volume import check_affine, check_shape
from gcis_train.datalist import Case, group_cases, read_datalist
from gcis_train.images import Grid, read_array, read_grid
from gcis_train.sides import other_side

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
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    named: dict[Path, set[int] | None] = {}
    arrays: dict[Path, npt.NDArray[Any]] = {}
    for target in case.targets:
        for file in target.labels:
            if file not in arrays and not _check_label(facts, file, arrays, headers_only=headers_only):
                return facts
            known = named.setdefault(file, set())
            named[file] = None if known is None or target.values is None else known | set(target.values)
        if not headers_only:
            mask = np.logical_or.reduce([target.select(arrays[file]) for file in target.labels])
            masks[target.prompt] = mask
    voxel_ml = abs(float(np.linalg.det(facts.grid.affine[:3, :3]))) / 1000.0
    facts.volumes = {prompt: float(mask.sum()) * voxel_ml for prompt, mask in masks.items()}
    facts.unnamed = frozenset(
        int(v)
        for file, known in named.items()
        if known is not None and not headers_only
        for v in np.unique(arrays[file])
        if v > 0 and int(v) not in known
    )
    _check_sides(facts, masks)
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


def _check_label(
    facts: CaseFacts, file: Path, arrays: dict[Path, npt.NDArray[Any]], *, headers_only: bool
) -> bool:
    """Compare a label file's grid with the image's and read it; tell whether it can be used."""
    try:
        grid = read_grid(file)
        array = np.zeros(0) if headers_only else read_array(file)
    except DataError as error:
        facts.add("error", str(error))
        return False
    image = facts.grid
    if image is None or not grid.matches(image):
        what = "shape" if image is None or grid.shape != image.shape else "affine"
        values = [
            (g.shape if what == "shape" else np.round(g.affine[:3], 3).tolist()) for g in (grid, image) if g
        ]
        facts.add(
            "error", f"label {file.name} is on another grid: {what} {values[0]}, the image's {values[-1]}"
        )
        return False
    whole = np.rint(array)
    if not np.array_equal(whole, array):
        facts.add("warning", f"label {file.name} has values that are not whole numbers: they are rounded")
    arrays[file] = whole
    return True


def _check_sides(facts: CaseFacts, masks: dict[str, npt.NDArray[np.bool_]]) -> None:
    """Warn where a left structure lies to the right of its right one."""
    for prompt, mask in masks.items():
        other = other_side(prompt)
        if other is None or "left" not in prompt.lower() or other not in masks:
            continue
        if mask.any() and masks[other].any() and _rightward(facts, mask) > _rightward(facts, masks[other]):
            facts.add("warning", f"{prompt!r} lies to the right of {other!r}: are the sides exchanged?")


def _rightward(facts: CaseFacts, mask: npt.NDArray[np.bool_]) -> float:
    """Return the centroid's coordinate towards the patient's right, mm."""
    if facts.grid is None:
        return 0.0
    centre = np.array(
        [np.average(np.arange(n), weights=_along(mask, axis)) for axis, n in enumerate(mask.shape)]
    )
    return float((facts.grid.affine @ np.append(centre, 1.0))[0])


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
