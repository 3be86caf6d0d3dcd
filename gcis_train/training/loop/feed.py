"""Draw the batches of a run; the seed determines every step, so that any step can be drawn again."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch

from gcis_train.data.datalist import Case
from gcis_train.data.sampling import cut_window, draw_window
from gcis_train.data.volumes import CaseVolume, load_case, load_phantom
from gcis_train.options.training import TrainOptions
from gcis_train.training.distributed import Processes
from gcis_train.training.objectives import Batch

PHANTOM_SEEDS = 1_000_000
"""First seed of training phantoms; smaller seeds are reserved for tests and demonstrations."""


ALONE = Processes()


class CaseStore(Sequence[CaseVolume]):
    """Sequence of preprocessed cases, each loaded at first access and then kept in memory.

    Args:
        cases: Cases to load.
        load: Function that loads a case.
    """

    def __init__(self, cases: Sequence[Case], load: Callable[[Case], CaseVolume]) -> None:
        self._cases, self._load = tuple(cases), load
        self._read: dict[int, CaseVolume] = {}

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: Any) -> Any:  # slices are not supported
        if index not in self._read:
            self._read[index] = self._load(self._cases[index])
        return self._read[index]


class Feed:
    """Source of the batches of a run, or of the share of one process.

    Args:
        cases: Training cases; loaded at first use and then kept in memory.
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

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from step `start`; a thread prepares the next ones."""
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=2)
        stop = threading.Event()

        def produce() -> None:
            try:
                for step in range(start, self.steps):
                    batch = self.batch(epoch, step)
                    while not stop.is_set():
                        try:
                            ready.put(batch, timeout=0.2)
                            break
                        except queue.Full:
                            continue
                    if stop.is_set():
                        return
                ready.put(None)
            except BaseException as error:  # passed to the consumer, which raises it
                ready.put(error)

        thread = threading.Thread(target=produce, name="gcis-feed", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while not ready.empty():
                ready.get_nowait()
            thread.join()

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
            return load_phantom(PHANTOM_SEEDS + number, self._options.preprocess)
        volume: CaseVolume = self._volumes[index]
        return volume
