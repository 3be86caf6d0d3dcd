"""Build the click commands of gCIS: grouped help, one line per error, exit codes, a traceback with `-v`."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from gcis_runtime.errors import GcisError
from gcis_runtime.system.home import name_home
from gcis_runtime.system.interruption import INTERRUPTED_EXIT, interruptible
from gcis_runtime.system.streams import tolerant_streams
from gcis_runtime.system.weak_file_systems import FileSystemWarning
from gcis_runtime.text import error_text, screen_text

USAGE_EXIT = 2

_C = TypeVar("_C", bound=Callable[..., Any] | click.Command)


class _GroupedOption(click.Option):
    """An option that `--help` lists under a heading."""

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.heading = heading


def options_under(heading: str) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Return a `click.option` for options that `--help` lists under a heading, as declared."""
    return functools.partial(click.option, cls=_GroupedOption, heading=heading)


@dataclass
class _Invocation:
    """State of one invocation, stored as the click context's `obj`.

    Attributes:
        verbose: Whether to print the traceback of an error.
    """

    verbose: bool = False


class _Guarded(click.Command):
    """A command that reports each expected error as one line on stderr and exits with code 2.

    Args:
        *arguments: Passed to click.
        extras: Extras of gCIS that the command needs, as in `pip install "gcis[EXTRAS]"`; None if the lean
            runtime suffices. If one of their packages is missing, the error names them.
        **settings: Passed to click.
    """

    def __init__(self, *arguments: Any, extras: str | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.extras = extras

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write options under their headings, and options without a heading last."""
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
        with tolerant_streams() as output:
            code = self._run(args)
            output.finish()
            if output.failed is not None and not isinstance(output.failed, BrokenPipeError):
                reason = error_text(output.failed)
                click.echo(f"{self.name or 'gcis'}: error: standard output: {reason}", err=True)
        sys.exit(code or int(output.failed is not None))

    def _run(self, args: Sequence[str] | None) -> int:
        """Run the command, report its error, and return the exit code."""
        prog = self.name or "gcis"
        invocation = _Invocation()
        try:
            name_home()
            with interruptible(), _notes_as_lines(prog):
                code = super().main(args, prog_name=prog, standalone_mode=False, obj=invocation)
        except click.ClickException as error:
            text = io.StringIO()
            error.show(text)
            echo(text.getvalue().removesuffix("\n"), err=True)
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{prog}: interrupted", err=True)
            return INTERRUPTED_EXIT
        except ModuleNotFoundError as error:
            if self.extras is None or (error.name or "gcis").startswith("gcis"):
                raise
            if invocation.verbose:
                traceback.print_exception(error)
            missing = GcisError(
                "a package is missing",
                received=f"an environment without {error.name}",
                expected=f"the extras {self.extras}",
                fix=f'Run pip install "gcis[{self.extras}]".',
            )
            click.echo(f"{prog}: error: {error_text(missing)}", err=True)
            return USAGE_EXIT
        except (GcisError, OSError, MemoryError) as error:
            if invocation.verbose:
                traceback.print_exception(error)
            click.echo(f"{prog}: error: {error_text(error)}", err=True)
            return USAGE_EXIT
        return code if isinstance(code, int) else 0


class _GuardedGroup(_Guarded, click.Group):
    """A group of commands with the same error handling."""


def echo(text: str = "", *, err: bool = False) -> None:
    """Print text that may come from a file, with control sequences escaped; line breaks are kept.

    Args:
        text: The text.
        err: Print on standard error.
    """
    click.echo(screen_text(text), err=err)


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an error on standard error if the command was called with `-v`.

    Call it in the thread that runs the command.
    """
    context = click.get_current_context(silent=True)
    invocation = context.find_object(_Invocation) if context is not None else None
    if invocation is not None and invocation.verbose:
        traceback.print_exception(error)


@contextlib.contextmanager
def _notes_as_lines(prog: str) -> Iterator[None]:
    """Print notes about file systems as one line each; other warnings are shown as usual."""
    show, seen = warnings.showwarning, set[str]()

    def show_line(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if not issubclass(category, FileSystemWarning):
            show(message, category, *rest, **named)
        elif (missing := str(message).rpartition(" has no ")[2]) not in seen:
            seen.add(missing)
            echo(f"{prog}: note: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", FileSystemWarning)
        warnings.showwarning = show_line
        yield


def _verbose(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(_Invocation).verbose = True
        logger = logging.getLogger("gcis_runtime")
        context.call_on_close(functools.partial(logger.setLevel, logger.level))
        logger.setLevel(logging.DEBUG)


verbose_option = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_verbose,
    help="Show tracebacks of errors and messages of engines.",
)
"""`-v`. Commands and groups built by this module have it; add it to the commands of a group."""


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    version = click.version_option(package_name="gcis", prog_name="gcis")
    return verbose_option(version(function))


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a function the command `name`."""
    return lambda function: click.command(name, cls=_Guarded, **settings)(_with_options(function))


def command_group(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Group]:
    """Return a decorator that makes a function the command group `name`."""
    return lambda function: click.group(name, cls=_GuardedGroup, **settings)(_with_options(function))


def out_option(
    *,
    help: str,
    option: Callable[..., Any] = click.option,
    long: str = "--out",
    **settings: Any,
) -> Callable[[_C], _C]:
    """Return the option `-o`, which names the output file or folder.

    Args:
        help: Help text.
        option: Decorator factory, such as one of `options_under`.
        long: Long spelling, from which click derives the parameter's name.
        **settings: Passed to `option`. `type` defaults to a path, given to the function as `pathlib.Path`.
    """
    settings.setdefault("type", click.Path(path_type=Path))
    decorator: Callable[[_C], _C] = option("-o", long, help=help, **settings)
    return decorator


def json_option(
    *,
    help: str = "Print one JSON document instead of text.",
    option: Callable[..., Any] = click.option,
) -> Callable[[_C], _C]:
    """Return the flag `--json`, given to the function as `as_json`."""
    decorator: Callable[[_C], _C] = option("--json", "as_json", is_flag=True, help=help)
    return decorator
