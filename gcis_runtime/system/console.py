"""How every command of gCIS ends: one clear line for an error, a traceback only on request."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import click

from gcis_runtime.errors import GcisError
from gcis_runtime.text import printable

USAGE_EXIT = 2
INTERRUPTED_EXIT = 130


class _GroupedOption(click.Option):
    """An option that `--help` lists under a heading."""

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.heading = heading


def options_under(heading: str) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Return a `click.option` whose options `--help` lists under a heading, in the order of declaration."""
    return functools.partial(click.option, cls=_GroupedOption, heading=heading)


class _Guarded(click.Command):
    """A command whose expected errors are one line on stderr and exit code 2."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List options under their headings, the others last."""
        headings = dict.fromkeys(p.heading for p in self.params if isinstance(p, _GroupedOption))
        if not headings:
            super().format_options(ctx, formatter)
            return
        for heading in (*headings, "Other"):
            mine = [
                p
                for p in self.get_params(ctx)
                if isinstance(p, click.Option) and getattr(p, "heading", "Other") == heading
            ]
            records = [record for p in mine if (record := p.get_help_record(ctx)) is not None]
            with formatter.section(heading):
                formatter.write_dl(records)

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        prog = self.name or "gcis"
        VERBOSE.on = False  # several commands may run in one process
        _open_streams()
        try:
            with _terminated_tidily():
                code = super().main(args, prog_name=prog, standalone_mode=False)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{prog}: interrupted", err=True)
            code = INTERRUPTED_EXIT
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except (GcisError, OSError, MemoryError) as error:
            code = _report(prog, error)
        sys.exit(code if isinstance(code, int) else 0)


class _GuardedGroup(_Guarded, click.Group):
    """A group of commands with the same ending."""


def _report(prog: str, error: BaseException) -> int:
    click.echo(f"{prog}: error: {error_line(error)}", err=True)
    return USAGE_EXIT


def _open_streams() -> None:
    """Give closed standard streams nowhere to go (`2>&-`).

    Else the next file that is opened has the number of one of them, and gets what libraries print there.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)  # as standard streams are
    os.close(file)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def error_line(error: BaseException) -> str:
    """Say in one line what went wrong; with `-v`, print its traceback first."""
    if VERBOSE.on:
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        return printable(" ".join(f"out of memory {error}".split()))
    return printable(" ".join(str(error).split())) or type(error).__name__


@contextlib.contextmanager
def _terminated_tidily() -> Iterator[None]:
    """Let SIGTERM (a scheduler, `timeout`, a container that stops) end a command as Ctrl-C does.

    By default it ends the process at once, and temporary files and folders, hundreds of megabytes of an
    export, stay.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # a command called from Python
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Verbosity:
    """Whether `-v` was given: read where the process ends."""

    on = False


VERBOSE = _Verbosity()


def _verbose(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        VERBOSE.on = True


verbose_option = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_verbose,
    help="Show tracebacks of errors.",
)
"""`-v`, which commands and groups made here have; add it to the commands of a group."""


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    version = click.version_option(package_name="gcis", prog_name="gcis")
    return verbose_option(version(function))


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorate the function of a command called `name`."""
    return lambda function: click.command(name, cls=_Guarded, **settings)(_with_options(function))


def command_group(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Group]:
    """Decorate the function of a group of commands called `name`."""
    return lambda function: click.group(name, cls=_GuardedGroup, **settings)(_with_options(function))
