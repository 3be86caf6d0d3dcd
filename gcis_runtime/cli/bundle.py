"""Implement the command `gcis-bundle`: inspect and verify bundles, and examine this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcis_runtime.cli.latency import latency
from gcis_runtime.system.console import USAGE_EXIT, command_group, echo, json_option, verbose_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gcis_runtime.bundles.bundle import Bundle
    from gcis_runtime.bundles.manifest import ParityRow
    from gcis_runtime.engines.onnx.measured_settings import MeasuredSettings
    from gcis_runtime.engines.self_test import Trial

PROGRAM = "gcis-bundle"
_JSON = json_option(help="Print one JSON document.")


@command_group(PROGRAM, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Inspect and verify exported bundles, and show which engines can run on this machine."""


@main.command("list")
@_JSON
@verbose_option
def list_(as_json: bool) -> None:
    """List the installed bundles and the shipped demo."""
    from gcis_runtime.bundles.store import list_bundles, store_folder
    from gcis_runtime.text import table

    entries = list_bundles(with_demo=True)
    if as_json:
        _print_json(
            {
                "store": str(store_folder()),
                "bundles": [
                    {
                        "slug": e.slug,
                        "folder": str(e.folder),
                        "prompts": [label.prompt for label in e.manifest.labels] if e.manifest else [],
                        "problem": e.problem,
                    }
                    for e in entries
                ],
            }
        )
        return
    if not entries:
        echo(f"No bundle in {store_folder()}. Export one with gcis-export.")
        return
    rows = [["bundle", "prompts", "folder"]]
    for e in entries:
        prompts = (
            ", ".join(label.prompt for label in e.manifest.labels)
            if e.manifest
            else f"unreadable: {e.problem}"
        )
        rows.append([e.slug, prompts, str(e.folder)])
    echo(table(rows))


@main.command()
@click.argument("bundle", metavar="B")
@_JSON
@verbose_option
def inspect(bundle: str, as_json: bool) -> None:
    """Show prompts, pathways, engines, parity and provenance of bundle B (folder, name or 'demo')."""
    opened = _open(bundle)
    if as_json:
        _print_json({"folder": str(opened.folder), "sha256": opened.sha256, "manifest": opened.manifest})
        return
    from gcis_runtime.bundles.describe import describe

    echo(describe(opened))


@main.command()
@click.argument("bundle", metavar="B")
@click.option(
    "--run/--no-run",
    "run_engines",
    default=True,
    help="Run one window with every graph and engine that can run on this machine [run].",
)
@click.option(
    "--device",
    metavar="cuda[:N]",
    help="Also compare the precisions of ONNX Runtime on this GPU with the CPU, and store the result for "
    "--precision auto on this machine. The bundle is not changed.",
)
@click.option(
    "--trial",
    is_flag=True,
    help="With --device, also measure settings of ONNX Runtime (convolution search, CUDA graph, windows per "
    "run) for about a minute, and store the fastest for later runs on this machine.",
)
@_JSON
@verbose_option
def verify(bundle: str, run_engines: bool, device: str | None, trial: bool, as_json: bool) -> int:
    """Check schema, paths, sizes and hashes of bundle B, and run one window with it."""
    from gcis_runtime.engines.factory import open_session
    from gcis_runtime.engines.options import EngineOptions
    from gcis_runtime.engines.self_test import try_window, unlisted_files
    from gcis_runtime.pipeline.precision_check import check_device

    if device is not None and EngineOptions(device=device).device == "cpu":
        raise click.UsageError("--device is for GPUs; the CPU is always tested.")
    if device is not None and not run_engines:
        raise click.UsageError("--device needs --run.")
    if trial and device is None:
        raise click.UsageError("--trial needs --device.")
    opened = _open(bundle)
    rows = () if device is None else check_device(opened, device, open_session)
    record = None if device is None or not trial else _trial(opened, device)
    windows = try_window(opened) if run_engines else ()
    unlisted = unlisted_files(opened)
    ok = all(t.outcome != "failed" for t in windows) and all(row.passed for row, _ in rows)
    if as_json:
        _print_json(
            {
                "folder": str(opened.folder),
                "sha256": opened.sha256,
                "files": len(opened.manifest.files),
                "unlisted": unlisted,
                "ok": ok,
                "engines": [t.as_dict() for t in windows],
                "rows": [row for row, _ in rows],
                "stored": all(stored for _, stored in rows),
                "trial": record,
            }
        )
        return 0 if ok else USAGE_EXIT
    echo(f"{opened.name}: manifest and {len(opened.manifest.files)} files are as exported")
    for name in unlisted:
        echo(f"{name} is not in the manifest and is never read")
    _print_windows(windows)
    _print_rows(rows)
    if record is not None:
        _print_trial(record)
    return 0 if ok else USAGE_EXIT


@main.command()
@click.argument("document", type=click.Choice(("manifest", "report", "summary")), default="manifest")
@verbose_option
def schema(document: str) -> None:
    """Print the JSON Schema of a bundle's manifest.json, an image's report, or a run's summary.json."""
    if document == "manifest":
        from gcis_runtime.bundles.manifest import json_schema
    elif document == "report":
        from gcis_runtime.pipeline.report import json_schema
    else:
        from gcis_runtime.runs.summary_document import json_schema
    _print_json(json_schema())


@main.command("merge-summaries")
@click.argument(
    "summaries", nargs=-1, required=True, metavar="FOLDER|FILE...", type=click.Path(path_type=Path)
)
@_JSON
@verbose_option
def merge_summaries_(summaries: tuple[Path, ...], as_json: bool) -> int:
    """Join the summaries of gcis-run --shard in FOLDER to summary.csv, .json and .html, and print the counts.

    Instead of the folder, the files summary.shard-I-of-N.json of all shards may be passed; the summary is
    written next to the first. Exit code 0: every image was segmented; 2: at least one was not, or nothing was
    written.
    """
    from gcis_runtime.cli.tables import counts_text
    from gcis_runtime.fleet.merge import merge_summaries

    document, file = merge_summaries(summaries)
    if as_json:
        _print_json({"counts": document.counts, "summary": str(file)})
    else:
        echo(f"{counts_text(document.counts)}\nwrote {file}")
    return USAGE_EXIT if document.counts["failed"] or document.counts["waiting"] else 0


@main.command()
@_JSON
@verbose_option
def doctor(as_json: bool) -> None:
    """Show versions, processor, providers and devices, and which engines can run on this machine."""
    from dataclasses import asdict

    from gcis_runtime.engines.doctor import examine
    from gcis_runtime.text import table

    found = examine()
    if as_json:
        lists = {name: [asdict(f) for f in found[name]] for name in ("engines", "gpus")}
        _print_json(found | lists)
        return
    rows = [["python", found["python"]], ["system", found["system"]]]
    rows += [[name, version] for name, version in found["packages"].items()]
    rows += [
        ["CPUs usable", str(found["cpus"])],
        ["CPU features", ", ".join(found["cpu_flags"]) or "unknown"],
        ["CUDA driver", found["cuda_driver"] or f"none: {found['cuda_problem']}"],
        *([f"GPU {g.index}", f"{g.name}, {g.sm}, {g.memory / 2**30:.1f} GiB"] for g in found["gpus"]),
        ["engine cache", found["cache"] or "none: no folder that only you can write to"],
        ["gzip", found["gzip"] if found["gzip"] != "zlib" else "zlib (pip install isal: three times faster)"],
        ["ONNX Runtime providers", ", ".join(found["onnxruntime_providers"]) or "none"],
    ]
    rows += [[f"OpenVINO {device}", ", ".join(caps)] for device, caps in found["openvino"].items()]
    echo(table(rows))
    echo("")
    engines = [[f.engine, f.device, _yes(f.works), _yes(f.builds), f.why] for f in found["engines"]]
    echo(table([["engine", "device", "runs", "builds", "why"], *engines]))


main.add_command(latency)


def _print_windows(windows: Sequence[Trial]) -> None:
    """Print the result of one window per engine; those that failed as errors."""
    for t in windows:
        if t.outcome == "ok":
            echo(f"{t.candidate.name}: one run in {t.seconds:.2f} s; differs from onnx by {t.max_abs:.3g}")
        elif t.outcome == "failed":
            echo(f"{PROGRAM}: error: {t.candidate.name}: {t.problem}", err=True)
        else:
            echo(f"{t.candidate.name}: cannot run here: {t.problem}")


_NOT_STORED = "not stored: set GCIS_HOME to a folder of yours with free space"


def _print_rows(rows: Sequence[tuple[ParityRow, bool]]) -> None:
    """Print the comparisons of a GPU with the CPU; those that failed as errors."""
    from gcis_runtime.engines.parity import describe, describe_limits

    for row, stored in rows:
        text = f"{row.stage}, {row.precision}: {describe(row)}"
        if row.passed:
            echo(f"{text}; {'stored for this machine' if stored else _NOT_STORED}")
        else:
            echo(f"{PROGRAM}: error: {text}; expected {describe_limits(row)}", err=True)


def _trial(bundle: Bundle, device: str) -> MeasuredSettings:
    """Measure settings of ONNX Runtime on a GPU, and store the fastest."""
    from gcis_runtime.pipeline.trial.run_trial import run_trial

    echo(f"{PROGRAM}: measuring settings of ONNX Runtime on {device}, for about a minute", err=True)
    return run_trial(bundle, device)


def _print_trial(record: MeasuredSettings) -> None:
    """Print the measurements of a trial, and the chosen settings."""
    for outcome in record.outcomes:
        echo(f"{outcome.settings.text}: {outcome.refusal or outcome.times}")
    echo(f"{record.precision}, {record.settings.text}: {record.reason}; stored for this machine")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _open(bundle: str) -> Bundle:
    """Find and verify a bundle."""
    from gcis_runtime.bundles.bundle import open_bundle
    from gcis_runtime.bundles.store import find_bundle

    return open_bundle(find_bundle(bundle))


def _print_json(document: Any) -> None:
    """Print one indented JSON document."""
    from gcis_runtime.system.json_files import json_text

    echo(json_text(document))


if __name__ == "__main__":
    main()
