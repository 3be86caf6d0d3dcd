"""Implement the command `gcis-bundle latency`: measure the engines of a bundle on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from gcis_runtime.system.console import echo, out_option, verbose_option


@click.command()
@click.argument("bundles", metavar="B...", nargs=-1, required=True)
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CT file [a generated phantom].",
)
@click.option("--phantom", "seed", default=7, show_default=True, help="Seed of the phantom.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True, help="Processes per engine.")
@click.option(
    "--warmup", type=click.IntRange(1), default=1, show_default=True, help="Warm-up runs per process."
)
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed runs per process."
)
@click.option(
    "--product", type=click.IntRange(8), default=2048, hidden=True, help="Rows of the matrix of the ceiling."
)
@out_option(required=True, help="Folder of the report.")
@verbose_option
def latency(
    bundles: tuple[str, ...],
    image: Path | None,
    seed: int,
    rounds: int,
    warmup: int,
    repeats: int,
    product: int,
    out: Path,
) -> None:
    """Measure time, memory and agreement of each engine of bundle B on one CT, and write a report.

    Several bundles of one network, such as exports in different precisions, go into one report. The folder
    receives index.html with its charts, latency.md and a JSON record. Labels are compared with those of ONNX
    Runtime in float32.
    """
    from gcis_runtime.latency.measure import Settings, measure
    from gcis_runtime.latency.report import write_report
    from gcis_runtime.pages.renderer import check_renderer
    from gcis_runtime.system.rehearsal import check_writable

    check_renderer()
    check_writable(out / "index.html")
    settings = Settings(rounds=rounds, warmup=warmup, repeats=repeats, seed=seed, product=product)
    record = measure(bundles, image, settings, on_step=lambda line: echo(line, err=True))
    for row in record.rows:
        echo(
            f"{row.total.p50:8.2f} s  labels equal {row.labels_equal:.4%}  {row.peak_memory_mb or 0:6d} MB  "
            f"{row.windows_per_second:6.2f} windows/s  {row.gflops:6.1f} GFLOP/s  {row.name}"
        )
    for missing in record.missing:
        echo(f"{missing.name}: not measured ({missing.reason})")
    echo(f"page: {write_report(record, out)}")
