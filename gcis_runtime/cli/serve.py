"""Implement the command `gcis-serve`: serve bundles over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gcis_runtime.cli.dicom_node import MakeNode, dicom_node_options
from gcis_runtime.cli.option_groups import engine_options
from gcis_runtime.system.console import command, options_under

if TYPE_CHECKING:
    from gcis_runtime.engines.options import EngineOptions

PROGRAM = "gcis-serve"

_EPILOG = """\b
Examples:
  gcis-serve --bundle demo                           on http://127.0.0.1:8470
  gcis-serve --bundle B --root /data/studies         requests may name paths below a folder
  gcis-serve --bundle B --host 0.0.0.0 --token-file token.txt
  gcis-serve --bundle B --dicom-port 11112 --allow PACS --send-to PACS@10.1.2.3:104
  gcis-run ct.nii.gz --server http://127.0.0.1:8470  the client, which needs no engine

Research software, not a medical device."""

access = options_under("Access")
jobs = options_under("Jobs")
limits = options_under("Limits")


@command(
    PROGRAM,
    extras="serve",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@access(
    "--bundle",
    "bundles",
    metavar="B",
    multiple=True,
    required=True,
    help="Bundle folder, name in the store, or 'demo'; repeat for more.",
)
@access(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on. Any address but that of this machine needs --token-file.",
)
@access(
    "--port", type=click.IntRange(0, 65535), default=8470, show_default=True, help="Port; 0 for a free one."
)
@access(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the token that clients must send, at least 16 characters.",
)
@access(
    "--without-token",
    is_flag=True,
    help="Listen on any address without a token: whoever reaches the port can submit and read jobs.",
)
@access(
    "--host-name",
    "names",
    metavar="NAME",
    multiple=True,
    help="Name of this service that requests may use, such as that of a proxy; repeat for more. Needed only "
    "without a token.",
)
@access(
    "--root",
    "roots",
    metavar="FOLDER",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Requests may name images below this folder; repeat for more. [no paths]",
)
@jobs(
    "--folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the jobs. [serve in $GCIS_HOME]",
)
@jobs(
    "--keep",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="Remove ended jobs after this time, such as 30m, 24h or 7d.",
)
@jobs(
    "--keep-size",
    default="20G",
    show_default=True,
    metavar="SIZE",
    help="Remove the oldest ended jobs beyond this size.",
)
@jobs(
    "--grace",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for running jobs to finish after SIGTERM; then they are queued for the next start.",
)
@limits(
    "--queue",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="Jobs that may be queued; more are refused with status 429.",
)
@limits(
    "--uploads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="Uploads at the same time.",
)
@limits("--max-upload", default="4G", show_default=True, metavar="SIZE", help="Largest body of a request.")
@limits(
    "--upload-timeout",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest time of a whole body.",
)
@limits(
    "--attempts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Starts of a job that ends the process; then it has failed.",
)
@dicom_node_options
@engine_options
def main(
    *,
    bundles: tuple[str, ...],
    host: str,
    port: int,
    token_file: Path | None,
    without_token: bool,
    names: tuple[str, ...],
    roots: tuple[Path, ...],
    folder: Path | None,
    keep: str,
    keep_size: str,
    grace: float,
    queue: int,
    uploads: int,
    max_upload: str,
    upload_timeout: float,
    attempts: int,
    make_node: MakeNode,
    engine: EngineOptions,
) -> int:
    """Serve bundles over HTTP: segment uploaded CT images with engines that stay loaded.

    The address shows a page; GET /openapi.json describes the requests. The first SIGTERM or Ctrl-C lets
    running jobs finish for the time of --grace and queues the others for the next start; the second one ends
    the process.
    """
    from gcis_runtime.bundles.bundle import open_bundle
    from gcis_runtime.bundles.store import find_bundle
    from gcis_runtime.cli.serve_log import log_to_stderr
    from gcis_runtime.serve.access import admitted_hosts, check_address, duration, read_token
    from gcis_runtime.serve.page.routes import page_routes
    from gcis_runtime.serve.server import ServeOptions, serve
    from gcis_runtime.serve.settings import Limits
    from gcis_runtime.system.home import home_folder
    from gcis_runtime.system.memory import parse_bytes

    log = log_to_stderr(PROGRAM)
    token = None if token_file is None else read_token(token_file)
    check_address(host, token, without_token=without_token)
    folder = folder or home_folder() / "serve"
    node = make_node(folder, log)
    options = ServeOptions(
        bundles=[open_bundle(find_bundle(bundle)) for bundle in bundles],
        engine=engine, folder=folder, host=host, port=port, token=token,
        routes=page_routes(), roots=roots, hosts=admitted_hosts(host, names, without_token=without_token),
        limits=Limits(
            queue=queue, uploads=uploads, upload_bytes=parse_bytes(max_upload),
            upload_seconds=upload_timeout, attempts=attempts, keep_seconds=duration(keep),
            keep_bytes=parse_bytes(keep_size), grace_seconds=grace,
        ),
        on_start=() if node is None else (node,),
    )  # fmt: skip
    serve(
        options,
        on_listen=lambda url: log(f"listening on {url}"),
        on_ready=lambda: log("ready"),
    )
    log("stopped")
    return 0


if __name__ == "__main__":
    main()
