"""Implement `gcis-train datalist`: one command per dataset, and `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gcis_runtime.system.console import echo, json_option, out_option, verbose_option

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
_SHOWN = 5


class _Kinds(click.Group):
    """Group of the commands in this module and one command per dataset."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from gcis_train.datasets import DATASETS

        return [*super().list_commands(ctx), *DATASETS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from gcis_train.datasets import find_kind

        written = super().get_command(ctx, cmd_name)
        if written is not None:
            return written
        kind = find_kind(cmd_name)
        return None if kind is None else _kind_command(kind)


@click.group("datalist", cls=_Kinds)
def datalist() -> None:
    """Create a datalist from the folder of a public dataset (`datalist KIND ROOT -o F`), or `check` one."""


@datalist.command("check")
@click.argument("path", metavar="F", type=FILE)
@click.option("--prompt", default="", help="Structure of rows without a prompt.")
@json_option(help="Print the complete result as JSON.")
@click.option("--headers-only", is_flag=True, help="Compare grids without reading voxels.")
@click.option("--picture", type=FILE, help="PNG file with slices of a few cases [NAME_check.png next to F].")
@click.option("--no-picture", is_flag=True, help="Do not write the PNG file.")
@click.option(
    "--pictures",
    "count",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Number of cases to draw.",
)
@verbose_option
def check(
    path: Path,
    prompt: str,
    as_json: bool,
    headers_only: bool,
    picture: Path | None,
    no_picture: bool,
    count: int,
) -> None:
    """Check the files of datalist F: grids, labels, HU values and duplicates. Exit code 2 reports errors."""
    import sys

    from gcis_runtime.system.json_files import json_text
    from gcis_runtime.system.rehearsal import check_writable
    from gcis_train.data.check import check_datalist
    from gcis_train.data.check_report import spread, summary, text_table, write_sheet
    from gcis_train.data.datalist import group_cases, read_datalist
    from gcis_train.training.progress import Progress

    sheet = None if no_picture or headers_only else picture or path.with_name(f"{path.stem}_check.png")
    rows = read_datalist(path, prompt=prompt)
    if sheet is not None:
        check_writable(sheet)
    facts, problems = check_datalist(
        path, prompt=prompt, headers_only=headers_only, progress=Progress(sys.stderr).log
    )
    result = summary(facts, problems)
    chosen = spread(facts, count) if sheet is not None else []
    if sheet is not None and chosen:
        cases = [c for rs in (rows.training, rows.validation) for c in group_cases(rs, folder=path.parent)]
        write_sheet(sheet, [(f"{facts[i].split}: {facts[i].name}", cases[i]) for i in chosen])
        result["picture"] = str(sheet)
    echo(json_text(result) if as_json else text_table(result))
    for problem in problems:
        echo(f"{problem.level}: {problem.where}: {problem.message}", err=True)
    if "picture" in result and not as_json:
        echo(f"picture      {result['picture']}")
    echo(f"{result['errors']} errors, {result['warnings']} warnings", err=True)
    if result["errors"]:
        raise SystemExit(2)


def _kind_command(kind: str) -> click.Command:
    from gcis_train.datasets import DATASETS

    dataset = DATASETS[kind]

    def run(root: Path, out: Path, as_json: bool, **flags: Any) -> None:
        _make(kind, root, out, as_json, flags)

    return click.Command(
        kind,
        callback=run,
        params=_kind_options(placed_by_image=dataset.label_geometry == "image"),
        short_help=f"{dataset.title}: {dataset.layout}",
        help=f"Create a datalist from {dataset.title}.\n\nROOT contains {dataset.layout}.\n\n"
        f"Documented at {dataset.source}",
    )


def _kind_options(*, placed_by_image: bool) -> list[click.Parameter]:
    def keep(_root: Path, **_flags: Any) -> None:
        """Hold the parameters that the decorators below add."""

    flip = click.option(
        "--label-flip",
        default="",
        metavar="AXES",
        help="Axes of the file, such as z or yz, along which label files are reversed against images [none].",
    )
    for option in reversed(
        [
            click.argument("root", type=FOLDER),
            out_option(type=FILE, required=True, help="Datalist file to write."),
            click.option(
                "--lesions",
                type=click.Choice(["organ", "apart"]),
                default="organ",
                show_default=True,
                help="Include lesions in the mask of their organ, or not; they also have their own rows.",
            ),
            click.option(
                "--sides",
                type=click.Choice(["apart", "joined"]),
                default="apart",
                show_default=True,
                help="Treat left and right as two structures, or join them.",
            ),
            click.option(
                "--prompt", "prompts", multiple=True, help="Structure to include; repeat for several [all]."
            ),
            click.option(
                "--empty",
                type=click.Choice(["keep", "drop"]),
                default="keep",
                show_default=True,
                help="Keep or drop rows of structures absent from the image; 'drop' reads every label file.",
            ),
            click.option(
                "--validation-share",
                type=float,
                help="Share of patients for validation [the published split, or 0.2].",
            ),
            click.option(
                "--folds", type=int, default=0, help="Number of folds for cross-validation, 0 for none."
            ),
            click.option("--fold", type=int, default=0, help="Fold to validate on, counted from 0."),
            click.option("--test", is_flag=True, help="Validate on the published test set."),
            click.option(
                "--keep", is_flag=True, help="Keep cases whose published files are known to be wrong."
            ),
            *([flip] if placed_by_image else []),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split."),
            json_option(help="Print the complete report as JSON."),
            verbose_option,
        ]
    ):
        keep = option(keep)
    params: list[click.Parameter] = keep.__click_params__  # type: ignore[attr-defined]
    return list(reversed(params))


def _make(kind: str, root: Path, out: Path, as_json: bool, flags: dict[str, Any]) -> None:
    """Build and write a datalist; `flags` are the fields of `Choices`."""
    import sys

    from gcis_runtime.errors import DataError
    from gcis_runtime.system.json_files import json_text
    from gcis_runtime.system.rehearsal import check_writable
    from gcis_train.datasets import DATASETS
    from gcis_train.datasets.build import Choices, build, write_datalist
    from gcis_train.training.progress import Progress

    check_writable(out)
    try:
        choices = Choices(**flags)
    except ValueError as error:
        raise DataError(
            "the split is not possible",
            received=str(error),
            expected="a share in [0, 1], or folds with a fold below their number",
            fix="Change --validation-share, --folds or --fold.",
        ) from error
    log = Progress(sys.stderr).log
    built = build(DATASETS[kind], root, folder=out.parent, choices=choices, progress=log)
    write_datalist(out, built)
    echo(json_text(built.report) if as_json else _summary(built.report, out))


def _summary(report: dict[str, Any], out: Path) -> str:
    """Return a readable summary of a report."""
    from gcis_runtime.text import table
    from gcis_train.datasets.listing import grouped

    rows = [["structure", "cases"], *([p, str(n)] for p, n in report["structures"].items())]
    cases = ", ".join(f"{n} {part}" for part, n in report["cases"].items() if n or part != "held out")
    lines = [table(rows, right=(1,)), f"{report['dataset']}: cases {cases} ({report['split']})"]
    reasons = Counter(s["reason"] for s in report["skipped"])
    for reason, count in reasons.items():
        names = [s["name"] for s in report["skipped"] if s["reason"] == reason]
        lines.append(f"skipped {count}: {reason} ({_few(names)})")
    if report["label_geometry"]["placed_by"] == "image":
        differ = [m["name"] for m in report["label_geometry"]["headers_differ"]]
        lines.append(
            f"labels are placed by the headers of the images; those of {len(differ)} label files differ"
            + (f" ({_few(differ)})" if differ else "")
        )
    lines += [f"note: {note}" for note in report["notes"]]
    if report["unused_files"]:
        groups = grouped(report["unused_files"])
        lines.append(f"not used: {len(report['unused_files'])} files ({_counts(groups)})")
        lines.append(f"  such as {_few(report['unused_files'])}")
    if report["set_aside"]:
        lines.append(f"published without use for training: {_counts(report['set_aside'])}")
    lines.append(f"written to {out}; next: gcis-train datalist check {out}")
    return "\n".join(lines)


def _counts(groups: Mapping[str, int]) -> str:
    return _few([f"{name} {count}" for name, count in groups.items()])


def _few(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
