"""The ladder's ways that need PyTorch, each from file to label map in a process of its own.

`python -m benchmarks ladder-way` reads a `Way` as JSON and prints what it measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from gcis_runtime.sliding.labeller import Restore

Name = Literal["published", "routed", "static"]


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure.

    Attributes:
        name: `"published"`: the text tower embeds each prompt, every block of every position is computed and
            multiplied by its hard weight, once a prompt; `"routed"`: embeddings from the checkpoint, chosen
            blocks alone, once a prompt; `"static"`: all prompts in one pass of the static network.
        checkpoint: The network; routed, or static for `"static"`.
        image: CT file.
        out: Label map to write.
        restore: How labels come back to the file's grid.
        threads: CPU threads.
        device: `"cpu"` or `"cuda"`.
        launched: `time.monotonic()` when the process was started.
    """

    name: Name
    checkpoint: str
    image: str
    out: str
    restore: Restore = "nearest"
    threads: int
    device: str = "cpu"
    launched: float = 0.0


def measure(way: Way) -> dict[str, Any]:
    """Run the way once and tell its times and memory, ready for JSON."""
    import torch  # noqa: PLC0415 (counted as start-up)

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
        margins: torch.Tensor = predict(window)
        if way.device != "cpu":
            torch.cuda.synchronize()
        network, windows = network + time.monotonic() - begun, windows + len(window)
        return margins

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
    """All prompts at once."""
    return net


def _published(found: Any, net: Any) -> Any:
    """As published: the text tower at every case, and all blocks of a position computed."""
    import torch  # noqa: PLC0415

    from benchmarks.routing_step import published_sum  # noqa: PLC0415
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
    """As `gcis_train` evaluates: the checkpoint's embeddings, one pathway."""
    import torch  # noqa: PLC0415

    embeddings = [found.embedding(prompt).to(next(net.parameters()).device) for prompt in found.prompts]

    def predict(window: torch.Tensor) -> torch.Tensor:
        logits = [net(window, embedding) for embedding in embeddings]
        return torch.cat([x[:, 1:2] - x[:, 0:1] for x in logits], dim=1)

    return predict
