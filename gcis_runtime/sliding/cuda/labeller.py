"""Label an image on a GPU: upload the image slab by slab, and download labels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.engines.usable import as_unusable
from gcis_runtime.errors import DeviceMemoryError, EngineError
from gcis_runtime.grids.box import positive_box
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.sliding.accumulator import Tile
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.image_ring import PlaneSource
from gcis_runtime.sliding.cuda.kernels import Kernels, cached_kernels
from gcis_runtime.sliding.cuda.output import NativeGridOutput, NetworkGridOutput, OutputBlock, SlabOutput
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import LabelTask
from gcis_runtime.sliding.native_grid import NativeGridMapper
from gcis_runtime.sliding.plan import read_planes
from gcis_runtime.sliding.schedule import Schedule, make_schedule
from gcis_runtime.system.private_cache import open_cache
from gcis_runtime.system.stage_clock import StageClock
from gcis_runtime.system.worker_threads import workers


def choose_output(
    schedule: Schedule, transform: GridTransform, *, values: tuple[int, ...], smooth: bool, logits: bool
) -> SlabOutput:
    """Return the conversion of finished sums on the GPU.

    Args:
        schedule: The schedule of the windows.
        transform: Transform between the file grid and the network grid.
        values: Label value of each channel.
        smooth: Interpolate logits at the voxels of the file.
        logits: Return logits, from which the host computes masks or probabilities.
    """
    if smooth and not logits and transform.to_file is not None:
        return NativeGridOutput(schedule, grid=transform.to_file, values=values)
    return NetworkGridOutput(schedule, values=values, logits=logits)


class GpuLabeller:
    """Blend and label on the GPU of the session; see `Labeller`.

    Only labels are downloaded: labels on the native grid for smooth boundaries, otherwise labels on the
    network grid, which the host looks up for each file voxel. Masks and probabilities require the logits on
    the host. Threads prepare the image while the GPU computes, and the time that the labeller waits for them
    counts as `preprocess`. The time that it waits for the GPU counts as `network`, because blending and
    native-grid labels run on the GPU between windows.

    Args:
        session: The network on a GPU.
        kernels: The compiled kernels on that GPU; None compiles them or loads them from the user's cache.
        threads: CPU threads that prepare the image. Labels do not depend on their number.

    Attributes:
        least_free: Bytes of device memory that were free while the last volume held all its memory; None
            before the first volume.

    Raises:
        EngineError: The kernels cannot be compiled.
    """

    def __init__(self, session: DeviceSession, kernels: Kernels | None = None, *, threads: int = 1) -> None:
        self._session, self._threads = session, threads
        self.least_free: int | None = None
        self._proven = False  # whether logits of a first window have arrived
        if kernels is None:
            session.gpu.activate()
            kernels = Kernels(session.gpu, cached_kernels(session.gpu.info.sm, open_cache()))
        self._kernels = kernels

    def label(self, task: LabelTask, sink: LabelSink, clock: StageClock) -> WindowCount:
        """See `Labeller.label`.

        Raises:
            UnusableEngineError: The engine or the GPU failed before the first windows were finished.
            EngineError: The same, later.
        """
        count = WindowCount()

        schedule = make_schedule(task.plan)
        output = choose_output(
            schedule,
            task.image.transform,
            values=task.values,
            smooth=task.restore == "smooth",
            logits=sink.wants_logits,
        )
        take = _consumer(output, task, sink)

        def finished(windows: int) -> None:
            self._proven = True
            if task.done is not None:
                task.done(windows)

        with self._first_windows():
            blender = GpuBlender(
                self._session, self._kernels, schedule, task.weights, channels=task.channels, output=output
            )
            with _closing(blender):
                # The thread that writes into page-locked memory of the blender ends before that is freed.
                with clock.stage("network"), _plane_source(task, clock, self._threads) as planes:
                    for block in blender.blocks(planes, count=count, done=finished):
                        with clock.stage("restore"):
                            take(block)
                self.least_free = self._session.gpu.free_memory()
        return count

    @contextlib.contextmanager
    def _first_windows(self) -> Iterator[None]:
        """Translate errors that occur before the first windows are finished to `UnusableEngineError`."""
        try:
            yield
        except DeviceMemoryError:
            raise
        except EngineError as error:
            if self._proven:
                raise
            raise as_unusable(error) from error


@contextlib.contextmanager
def _plane_source(task: LabelTask, clock: StageClock, threads: int) -> Iterator[PlaneSource]:
    """Provide a source that prepares planes in the background, until the end of the block.

    The time that the caller waits for planes counts as `preprocess`.
    """
    with workers(threads) as pool, ThreadPoolExecutor(1) as background:

        def planes(first: int, out: NDArray[np.float32]) -> Callable[[], None]:
            future = background.submit(
                read_planes, task.image.box, task.plan, first, out,
                padding_value=task.padding_value, workers=pool,
            )  # fmt: skip

            def wait() -> None:
                with clock.stage("preprocess"):
                    future.result()

            return wait

        yield planes


@contextlib.contextmanager
def _closing(blender: GpuBlender) -> Iterator[None]:
    """Close a blender. After an error, a failure to close is ignored: the first error is the cause."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(EngineError):
            blender.close()
        raise
    blender.close()


def _consumer(output: SlabOutput, task: LabelTask, sink: LabelSink) -> Callable[[OutputBlock], None]:
    """Return the function that processes output on the host."""

    def put_labels(block: OutputBlock) -> None:
        found = positive_box(block.data)
        if found is not None:
            x, y, z = (
                slice(b.start + p.start, b.start + p.stop) for b, p in zip(block.box, found, strict=True)
            )
            sink.put((x, y, z), block.data[found])

    if isinstance(output, NativeGridOutput):
        return put_labels
    mapper = NativeGridMapper(
        plan=task.plan,
        transform=task.image.transform,
        values=task.values,
        restore=task.restore,
        sink=sink,
    )

    def map_values(block: OutputBlock) -> None:
        x, y, z = (part.start for part in block.box)
        if sink.wants_logits:
            mapper.add(Tile(start=(x, y, z), logits=block.data))
        else:
            mapper.add_labels((x, y, z), block.data)

    return map_values
