"""Run the network in PyTorch from file to label map, in a separate process.

`python -m benchmarks.compare.ways` reads a `Way` as JSON from stdin and prints the measurements as JSON.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from gcis_runtime.latency.processes import run_process
from gcis_runtime.sliding.labeller import Restore

Name = Literal["published", "routed", "static"]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one process.

    Attributes:
        name: `"published"`: one pass per prompt, in which the text tower embeds the prompt and every block of
            every position is computed and multiplied by its hard weight; `"routed"`: one pass per prompt,
            with the embeddings of the checkpoint and only the selected blocks; `"static"`: one pass of the
            static network for all prompts.
        checkpoint: Routed checkpoint, or a static one for `"static"`.
        image: CT file.
        out: Label map to write.
        restore: Resampling of labels to the native grid.
        threads: CPU threads.
        device: `"cpu"` or `"cuda"`.
        launched: `time.monotonic()` at the launch of the process.
    """

    name: Name
    checkpoint: str
    image: str
    out: str
    restore: Restore = "nearest"
    threads: int
    device: str = "cpu"
    launched: float = 0.0


def run(way: Way, *, home: Path) -> dict[str, Any]:
    """Measure in a separate process; `run_process` adds fields to the result of `measure`."""
    return run_process(("-m", "benchmarks.compare.ways"), way, home=home)


def measure(way: Way) -> dict[str, Any]:
    """Segment the file once and return times and memory, ready for JSON."""
    import torch  # noqa: PLC0415 (part of the start-up that is measured)

    from gcis_runtime.images.nifti import read_volume, write_labels  # noqa: PLC0415
    from gcis_runtime.system.memory import peak_memory_bytes  # noqa: PLC0415
    from gcis_train.evaluation.reference import reference_labels  # noqa: PLC0415
    from gcis_train.weights import checkpoint  # noqa: PLC0415

    torch.set_num_threads(way.threads)
    found = checkpoint.load(Path(way.checkpoint))
    net = (found.static() if way.name == "static" else found.routed()).eval().to(way.device)
    started = time.monotonic()
    with torch.no_grad():
        ways = {"published": _published, "routed": _routed, "static": _static}
        predict = ways[way.name](found, net)
    ready = time.monotonic()
    network, windows = 0.0, 0

    def timed(window: torch.Tensor) -> torch.Tensor:
        nonlocal network, windows
        begun = time.monotonic()
        logits: torch.Tensor = predict(window)
        if way.device != "cpu":
            torch.cuda.synchronize()
        network, windows = network + time.monotonic() - begun, windows + len(window)
        return logits

    labels = reference_labels(
        Path(way.image),
        timed,
        preprocess=found.config.preprocess,  # type: ignore[arg-type]
        window=found.config.window,  # type: ignore[arg-type]
        restore=way.restore,
        device=torch.device(way.device),
    )
    labelled = time.monotonic()
    write_labels(way.out, labels, like=read_volume(way.image))
    return {
        "start_seconds": round(started - way.launched, 3),
        "text_seconds": round(ready - started, 3),
        "network_seconds": round(network, 3),
        "other_seconds": round(labelled - ready - network + time.monotonic() - labelled, 3),
        "windows": windows,
        "windows_computed": windows,
        "peak_memory_mb": round((peak_memory_bytes() or 0) / 1e6) or None,
    }


def _static(_found: Any, net: Any) -> Any:
    """Return the static network, which computes all prompts in one pass."""
    return net


def _published(found: Any, net: Any) -> Any:
    """Return the published evaluation: the text tower per case, and all blocks of a position."""
    import torch  # noqa: PLC0415

    from benchmarks.published import published_sum  # noqa: PLC0415
    from gcis_train.text.tower import RANDOM, TextEncoder  # noqa: PLC0415

    tower = TextEncoder(found.config.text_model, RANDOM)
    gates = []
    for prompt in found.prompts:
        logits = net.route(tower.embed([prompt])[0].to(next(net.parameters()).device))
        gates.append(torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float())

    def predict(window: torch.Tensor) -> torch.Tensor:
        logits = [published_sum(net, net.encoder(window), g) for g in gates]
        return torch.cat([x[:, 1:2] - x[:, 0:1] for x in logits], dim=1)

    return predict


def _routed(found: Any, net: Any) -> Any:
    """Return the evaluation of `gcis_train`: embeddings of the checkpoint, and only the selected blocks."""
    import torch  # noqa: PLC0415

    embeddings = [found.embedding(prompt).to(next(net.parameters()).device) for prompt in found.prompts]

    def predict(window: torch.Tensor) -> torch.Tensor:
        logits = [net(window, embedding) for embedding in embeddings]
        return torch.cat([x[:, 1:2] - x[:, 0:1] for x in logits], dim=1)

    return predict


if __name__ == "__main__":
    found = measure(msgspec.json.decode(sys.stdin.buffer.read(), type=Way))
    sys.stdout.write(msgspec.json.encode(found).decode())
