"""`gcis-train datalist`: a command a dataset, and `check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gcis_runtime.system.console import json_option, out_option, verbose_option

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
_SHOWN = 5


class _Kinds(click.Group):
    """The commands written here and one for each dataset that has an adaptor."""

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
    """Make a datalist from a public dataset's folder: `datalist KIND ROOT -o F`; or `check` one."""


@datalist.command("check")
@click.argument("path", metavar="F", type=FILE)
@json_option(help="Print the whole finding as JSON.")
@click.option("--headers-only", is_flag=True, help="Compare grids without reading a voxel.")
@click.option("--picture", type=FILE, help="Sheet of a few cases, PNG [beside F, NAME_check.png].")
@click.option("--no-picture", is_flag=True, help="Draw no sheet.")
@click.option(
    "--pictures", "count", type=click.IntRange(min=1), default=4, show_default=True, help="Cases drawn."
)
@verbose_option
def check(
    path: Path, as_json: bool, headers_only: bool, picture: Path | None, no_picture: bool, count: int
) -> None:
    """Read all that datalist F names: files, grids, labels, HU, copies. Errors end with exit code 2."""
    import json
    import sys

    from gcis_runtime.system.atomic_files import check_writable
    from gcis_train.data.check import check_datalist
    from gcis_train.data.check_report import spread, summary, told, write_sheet
    from gcis_train.data.datalist import group_cases, read_datalist
    from gcis_train.training.progress import Progress

    sheet = None if no_picture or headers_only else picture or path.with_name(f"{path.stem}_check.png")
    rows = read_datalist(path)
    if sheet is not None:
        check_writable(sheet)
    facts, problems = check_datalist(path, headers_only=headers_only, progress=Progress(sys.stderr).say)
    result = summary(facts, problems)
    chosen = spread(facts, count) if sheet is not None else []
    if sheet is not None and chosen:
        cases = [c for rs in (rows.training, rows.validation) for c in group_cases(rs, folder=path.parent)]
        write_sheet(sheet, [(f"{facts[i].split}: {facts[i].name}", cases[i]) for i in chosen])
        result["picture"] = str(sheet)
    click.echo(json.dumps(result, indent=2) if as_json else told(result))
    for problem in problems:
        click.echo(f"{problem.level}: {problem.where}: {problem.message}", err=True)
    if "picture" in result and not as_json:
        click.echo(f"picture      {result['picture']}")
    click.echo(f"{result['errors']} errors, {result['warnings']} warnings", err=True)
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
        params=_kind_options(),
        short_help=f"{dataset.title}: {dataset.layout}",
        help=f"Make a datalist from {dataset.title}.\n\nROOT holds {dataset.layout}.\n\n"
        f"Documented at {dataset.source}",
    )


def _kind_options() -> list[click.Parameter]:
    def keep(_root: Path, **_flags: Any) -> None:
        """Carry the options below."""

    for option in reversed(
        [
            click.argument("root", type=FOLDER),
            out_option(type=FILE, required=True, help="Datalist to write."),
            click.option(
                "--lesions",
                type=click.Choice(["organ", "apart"]),
                default="organ",
                show_default=True,
                help="Tumours and cysts count as part of their organ, or not; they have own rows too.",
            ),
            click.option(
                "--sides",
                type=click.Choice(["apart", "joined"]),
                default="apart",
                show_default=True,
                help="Left and right are two structures, or one.",
            ),
            click.option("--prompt", "prompts", multiple=True, help="Only this structure; repeat for more."),
            click.option(
                "--empty",
                type=click.Choice(["keep", "drop"]),
                default="keep",
                show_default=True,
                help="Rows for structures that are not in the image; 'drop' reads every label file.",
            ),
            click.option(
                "--validation-share", type=float, help="Share of patients [the published split, or 0.2]."
            ),
            click.option("--folds", type=int, default=0, help="Cross-validation: number of folds."),
            click.option("--fold", type=int, default=0, help="The fold that validates, from 0."),
            click.option("--test", is_flag=True, help="Validate on the published test part."),
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split."),
            json_option(help="Print the whole report as JSON."),
            verbose_option,
        ]
    ):
        keep = option(keep)
    params: list[click.Parameter] = keep.__click_params__  # type: ignore[attr-defined]
    return list(reversed(params))


def _make(kind: str, root: Path, out: Path, as_json: bool, flags: dict[str, Any]) -> None:
    import json
    import sys

    from gcis_runtime.errors import DataError
    from gcis_runtime.system.atomic_files import check_writable
    from gcis_train.datasets import DATASETS
    from gcis_train.datasets.build import Choices, build, write_datalist
    from gcis_train.training.progress import Progress

    check_writable(out)
    try:
        choices = Choices(**flags)
    except ValueError as error:
        raise DataError("the split is not possible", received=str(error)) from error
    say = Progress(sys.stderr).say
    built = build(DATASETS[kind], root, folder=out.parent, choices=choices, progress=say)
    write_datalist(out, built)
    click.echo(json.dumps(built.report, indent=2) if as_json else _told(built.report, out))


def _told(report: dict[str, Any], out: Path) -> str:
    """Say a report for people."""
    from gcis_runtime.text import table

    rows = [["structure", "cases"], *([p, str(n)] for p, n in report["structures"].items())]
    cases = ", ".join(f"{n} {part}" for part, n in report["cases"].items() if n or part != "held out")
    lines = [table(rows, right=(1,)), f"{report['dataset']}: cases {cases} ({report['split']})"]
    reasons = Counter(s["reason"] for s in report["skipped"])
    for reason, count in reasons.items():
        names = [s["name"] for s in report["skipped"] if s["reason"] == reason]
        lines.append(f"skipped {count}: {reason} ({_few(names)})")
    if report["unused_files"]:
        lines.append(f"not used: {len(report['unused_files'])} files ({_few(report['unused_files'])})")
    lines.append(f"written to {out}; next: gcis-train datalist check {out}")
    return "\n".join(lines)


def _few(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
