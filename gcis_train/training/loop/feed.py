"""Draw the batches of a run; the seed determines every step, so that any step can be drawn again."""

from __future__ import annotations

import collections
import functools
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from gcis_train.data.datalist import Case
from gcis_train.data.sampling import cut_window, draw_window
from gcis_train.data.volumes import CaseVolume, load_case, load_phantom
from gcis_train.options.training import TrainOptions
from gcis_train.training.distributed import Processes
from gcis_train.training.loop.workers import Once, in_order, worker_count
from gcis_train.training.objectives import Batch

PHANTOM_SEEDS = 1_000_000
"""First seed of training phantoms; smaller seeds are reserved for tests and demonstrations."""


ALONE = Processes()


class CaseStore(Sequence[CaseVolume]):
    """Sequence of preprocessed cases, each loaded at first access and then kept in memory.

    Several threads may access it; none loads a case that another one is loading.

    Args:
        cases: Cases to load.
        load: Function that loads a case.
    """

    def __init__(self, cases: Sequence[Case], load: Callable[[Case], CaseVolume]) -> None:
        self._cases, self._load = tuple(cases), load
        self._read: Once[int, CaseVolume] = Once()

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: Any) -> Any:  # slices are not supported
        return self._read.get(index, lambda: self._load(self._cases[index]))

    def load(self, indices: Iterable[int], *, workers: int) -> None:
        """Load cases in parallel.

        Raises:
            DataError: A case cannot be loaded; the message names the first one.
        """
        for _ in in_order(self.__getitem__, indices, workers=workers):
            pass


class _Phantoms:
    """Phantoms of a run, each made once per epoch and released after its last window.

    Args:
        make: Function that makes the phantom with a number.
        windows: Windows drawn from a phantom.
        per_epoch: Phantoms per epoch.
    """

    def __init__(self, make: Callable[[int], CaseVolume], *, windows: int, per_epoch: int) -> None:
        self._make, self._windows, self._per_epoch = make, windows, per_epoch
        self._made: Once[int, CaseVolume] = Once()
        self._used: collections.Counter[int] = collections.Counter()
        self._lock = threading.Lock()

    def take(self, number: int) -> CaseVolume:
        """Return a phantom for one window.

        A phantom of which other processes draw some windows is released when the epoch after the next begins.
        """
        volume = self._made.get(number, lambda: self._make(number))
        epoch = number // self._per_epoch
        with self._lock:
            self._used[number] += 1
            done = [n for n in self._used if n // self._per_epoch < epoch - 1]
            done += [number] if self._used[number] == self._windows else []
            for other in done:
                self._made.forget(other)
                del self._used[other]
        return volume


class Feed:
    """Source of the batches of a run, or of the share of one process.

    Args:
        cases: Training cases; loaded at first use, in parallel by the workers, and then kept in memory.
        prompts: Prompts of the run.
        options: Training options.
        processes: Rank and number of processes; each draws its part of a common batch.
        load: Function that loads a case; None preprocesses it according to the options, without a cache.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        prompts: Sequence[str],
        options: TrainOptions,
        processes: Processes = ALONE,
        *,
        load: Callable[[Case], CaseVolume] | None = None,
    ) -> None:
        self._cases = tuple(cases)
        self._prompts = frozenset(prompts)
        self._options = options
        self._processes = processes
        self._volumes = CaseStore(cases, load or functools.partial(load_case, spec=options.preprocess))
        self._phantoms = _Phantoms(
            lambda number: load_phantom(PHANTOM_SEEDS + number, options.preprocess),
            windows=options.windows_per_case,
            per_epoch=max(options.phantoms, 1),
        )
        self._workers = worker_count(options.workers)
        separate = options.structures_per_case == "one"
        # A unit has `windows_per_case` windows per epoch: a case, or one structure of a case.
        self._units: list[tuple[int, str | None]] = []
        for index, case in enumerate(self._cases):
            names = dict.fromkeys(t.prompt for t in case.targets)
            self._units += [(index, name) for name in names] if separate else [(index, None)]
        self._units += [(len(self._cases) + i, None) for i in range(options.phantoms)]

    @property
    def steps(self) -> int:
        """Steps per epoch, the same for every process."""
        o = self._options
        items = len(self._units) * (1 if o.batch_of == "cases" else o.windows_per_case)
        return -(-items // (o.batch_size * self._processes.world))

    def load(self) -> None:
        """Load all cases in parallel.

        Raises:
            DataError: A case cannot be loaded; the message names the first one.
        """
        self._volumes.load(range(len(self._cases)), workers=self._workers)

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from step `start`; the workers draw the next ones ahead."""
        return self.stream(epoch, start=start, end=epoch + 1)

    def stream(self, epoch: int, *, start: int = 0, end: int | None) -> Generator[Batch, None, None]:
        """Yield the batches from step `start` of an epoch up to epoch `end` (None: without end).

        The workers draw ahead, also the first batches of the next epoch. The batches do not depend on the
        number of workers.

        Raises:
            DataError: A case cannot be loaded; the batches before it were yielded.
        """
        epochs = itertools.count(epoch) if end is None else range(epoch, end)
        places = ((e, step) for e in epochs for step in range(start if e == epoch else 0, self.steps))
        return in_order(lambda place: self.batch(*place), places, workers=self._workers)

    def batch(self, epoch: int, step: int) -> Batch:
        """Return the batch of a step; the same arguments return the same batch."""
        o = self._options
        names, images, masks, prompts, seeds = [], [], [], [], []
        for item in self._items(epoch, step):
            unit, window = divmod(item, o.windows_per_case)
            index, only = self._units[unit]
            volume = self._volume(index, epoch)
            rng = np.random.default_rng([o.seed, epoch, item, window])
            draw = draw_window(volume, o, prompts=self._prompts, only=only, rng=rng)
            image, mask = cut_window(volume, draw, o.window.patch_size, clip=o.augment.intensity_clip)
            names.append(volume.name)
            images.append(image)
            masks.append(mask)
            prompts.append(tuple(name for _, name in draw.targets))
            seeds.append(int(rng.integers(2**62)))
        return Batch(
            names=tuple(names),
            images=torch.stack(images) if images else torch.zeros((0, 1, *o.window.patch_size)),
            masks=tuple(masks),
            prompts=tuple(prompts),
            seeds=tuple(seeds),
        )

    def _items(self, epoch: int, step: int) -> list[int]:
        """Return the window numbers of this process in a step; each belongs to exactly one process."""
        o = self._options
        windows = o.windows_per_case
        whole_cases = o.batch_of == "cases"
        count = len(self._units) * (1 if whole_cases else windows)
        order = np.random.default_rng([o.seed, epoch]).permutation(count)
        whole = o.batch_size * self._processes.world
        mine = np.array_split(order[step * whole : (step + 1) * whole], self._processes.world)
        chosen = [int(i) for i in mine[self._processes.rank]]
        return [i * windows + w for i in chosen for w in range(windows)] if whole_cases else chosen

    def _volume(self, index: int, epoch: int) -> CaseVolume:
        if index >= len(self._cases):
            number = epoch * self._options.phantoms + index - len(self._cases)
            return self._phantoms.take(number)
        volume: CaseVolume = self._volumes[index]
        return volume
