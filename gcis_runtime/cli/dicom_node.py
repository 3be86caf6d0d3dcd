"""Define the options of `gcis-serve` for its DICOM node; the command receives them as one value."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gcis_runtime.system.console import options_under

if TYPE_CHECKING:
    from gcis_runtime.serve.dicom_node import ServiceNode

Command = Callable[..., Any]
MakeNode = Callable[[Path, Callable[[str], None]], "ServiceNode | None"]
"""Returns the node for the folder of the service and a function that logs; None without `--dicom-port`."""

node = options_under("DICOM node")

_OPTIONS = (
    node("--dicom-port", type=click.IntRange(0, 65535), metavar="N",
         help="Receive DICOM series on this port; 0 for a free one. [no DICOM node]"),
    node("--aet", "title", default="GCIS", show_default=True, metavar="AET", help="AE title of the node."),
    node("--allow", "callers", multiple=True, metavar="AET",
         help="AE title that may connect; repeat for more."),
    node("--allow-from", "peers", multiple=True, metavar="NETWORK",
         help="Network that may connect, such as 10.1.0.0/16; repeat for more. Needed with another --host "
         "than that of this machine."),
    node("--send-to", multiple=True, metavar="AET@HOST:PORT|URL",
         help="Send results to a DICOM node or a DICOMweb server; repeat for more."),
    node("--send-token-file", type=click.Path(path_type=Path), metavar="FILE",
         help="File with the bearer token for DICOMweb servers."),
    node("--send-format", "send_formats", multiple=True, type=click.Choice(["dicom-seg", "rtstruct", "sr"]),
         default=("dicom-seg",), show_default=True, help="What to send; repeat for more."),
    node("--quiet", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
         help="A series is complete if nothing of it arrived for this time."),
    node("--at-release", is_flag=True,
         help="A series is also complete at the end of the associations that sent it."),
)  # fmt: skip


def dicom_node_options(function: Command) -> Command:
    """Add the options of the node; the function receives `make_node`, a `MakeNode`."""

    @functools.wraps(function)
    def command(
        *,
        dicom_port: int | None,
        title: str,
        callers: tuple[str, ...],
        peers: tuple[str, ...],
        send_to: tuple[str, ...],
        send_token_file: Path | None,
        send_formats: tuple[str, ...],
        quiet: float,
        at_release: bool,
        **others: Any,
    ) -> Any:
        if dicom_port is None and (callers or peers or send_to or send_token_file):
            raise click.UsageError(
                "--allow, --allow-from, --send-to and --send-token-file need --dicom-port."
            )
        if dicom_port is not None and not (callers and send_to):
            raise click.UsageError("--dicom-port needs --allow AET and --send-to AET@HOST:PORT or URL.")

        def make(folder: Path, log: Callable[[str], None]) -> ServiceNode | None:
            if dicom_port is None:
                return None
            from gcis_runtime.dicom_node.destinations import parse_destination
            from gcis_runtime.dicom_node.options import NodeOptions
            from gcis_runtime.runs.outputs import DICOM_FORMATS
            from gcis_runtime.serve.access import read_token
            from gcis_runtime.serve.dicom_node import ServiceNode
            from gcis_runtime.serve.request import JobRequest

            labels = tuple(name for name in DICOM_FORMATS if name in send_formats) or DICOM_FORMATS[:1]
            return ServiceNode(
                node=NodeOptions(
                    folder=folder / "dicom", callers=callers, title=title, host=others["host"],
                    port=dicom_port, peers=peers, quiet_seconds=quiet, at_release=at_release,
                ),
                request=JobRequest(format=labels, sr="sr" in send_formats),
                send_to=[parse_destination(text) for text in send_to],
                token=None if send_token_file is None else read_token(send_token_file).decode(),
                log=log,
                on_listen=lambda port: log(f"DICOM node {title} on port {port}"),
            )  # fmt: skip

        return function(make_node=make, **others)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
