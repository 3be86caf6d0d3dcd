"""The order of windows in a run: fixed by the seed, so that any step can be drawn again."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from gcis_train.datalist import Case
from gcis_train.objectives import Batch
from gcis_train.options import TrainOptions
from gcis_train.sampling import cut_window, draw_window
from gcis_train.volumes import CaseVolume, load_case, load_phantom

PHANTOM_SEEDS = 1_000_000
"""Training phantoms use seeds from here on; smaller ones are free for tests and demonstrations."""


class Feed:
    """Batches of a run.

    Args:
        cases: Training cases; read when first needed and then kept.
        prompts: Prompts of the run.
        options: What to draw.
        load: How a case is read; None reads it as the options say, without a cache.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        prompts: Sequence[str],
        options: TrainOptions,
        *,
        load: Callable[[Case], CaseVolume] | None = None,
    ) -> None:
        self._load = load or functools.partial(load_case, spec=options.preprocess)
        self._cases = tuple(cases)
        self._prompts = frozenset(prompts)
        self._options = options
        self._volumes: dict[int, CaseVolume] = {}

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        items = (len(self._cases) + self._options.phantoms) * self._options.windows_per_case
        return -(-items // self._options.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step `start`, prepared one ahead in a thread."""
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
            except BaseException as error:  # handed to the consumer, which raises it
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
        """Draw one batch; the same arguments give the same batch."""
        o = self._options
        order = self._order(epoch)
        items = order[step * o.batch_size : (step + 1) * o.batch_size]
        names, images, masks, prompts, seeds = [], [], [], [], []
        for item in items:
            index, window = divmod(int(item), o.windows_per_case)
            volume = self._volume(index, epoch)
            rng = np.random.default_rng([o.seed, epoch, int(item), window])
            draw = draw_window(volume, o, prompts=self._prompts, rng=rng)
            image, mask = cut_window(volume, draw, o.window.roi)
            names.append(volume.name)
            images.append(image)
            masks.append(mask)
            prompts.append(tuple(name for _, name in draw.targets))
            seeds.append(int(rng.integers(2**62)))
        return Batch(
            names=tuple(names),
            images=torch.stack(images),
            masks=tuple(masks),
            prompts=tuple(prompts),
            seeds=tuple(seeds),
        )

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        items = (len(self._cases) + self._options.phantoms) * self._options.windows_per_case
        return np.random.default_rng([self._options.seed, epoch]).permutation(items)

    def _volume(self, index: int, epoch: int) -> CaseVolume:
        if index >= len(self._cases):
            number = epoch * self._options.phantoms + index - len(self._cases)
            return load_phantom(PHANTOM_SEEDS + number, self._options.preprocess)
        if index not in self._volumes:
            self._volumes[index] = self._load(self._cases[index])
        return self._volumes[index]
