"""Connect to a running Ray cluster, which must require a token, and read its nodes.

Without a token, every client that reaches the ports of a Ray cluster runs programs on its nodes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from gcis_runtime.errors import ClusterError
from gcis_runtime.fleet.slots import Node

_LOG = logging.getLogger(__name__)
AUTO = "auto"
_MODE = "RAY_AUTH_MODE"
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})")
_SECONDS = 10.0
_GUIDE = "docs/how-to/cluster.md shows how to start a cluster with a token."
_TOKEN = (
    "Create a token with `ray get-auth-token --generate`, copy it to every machine, set RAY_AUTH_MODE=token "
    f"on each, and start the cluster again; {_GUIDE}"
)
_PROBE = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_get(b"gcis", namespace=b"gcis", timeout=5)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {str(error).splitlines()[0]}")
"""
"""Ask the head for a key. Ray itself repeats a connection that is refused for 20 seconds."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, and yield the module `ray`. No cluster is started.

    Args:
        address: `HOST:PORT` of the head, or `"auto"` for the cluster of `RAY_ADDRESS` or of this machine.

    Raises:
        ClusterError: Ray is not installed, the cluster cannot be reached, or it does not require a token.
    """
    if find_spec("ray") is None:
        raise ClusterError("--ray needs Ray, which is not installed", fix="pip install 'gcis[ray]'.")
    mode = os.environ.setdefault(_MODE, "token")
    if mode.lower() != "token":
        raise ClusterError(
            "Ray without tokens lets every client that reaches the cluster run programs on it",
            received=f"{_MODE}={mode}",
            expected=f"{_MODE}=token",
            fix=_TOKEN,
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no reports to the makers of Ray
    head = _head(address)
    _check_head(head)
    import ray  # noqa: PLC0415 (an extra)

    _silence(ray)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=head, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"the Ray cluster {head} cannot be used",
            received=str(error).splitlines()[0],
            fix=f"Use the same versions of Ray and Python on all machines. {_GUIDE}",
        ) from error
    finally:
        _restore(handler)  # Ray replaces the handler of this command
    try:
        yield ray
    finally:
        ray.shutdown()
        _restore(handler)


def nodes(ray: Any) -> list[Node]:
    """Return the nodes that are alive."""
    return [
        Node(
            name=found["NodeID"],
            place=found["NodeManagerAddress"],
            cpus=int(found["Resources"].get("CPU", 0)),
            gpus=int(found["Resources"].get("GPU", 0)),
            memory=int(found["Resources"].get("memory", 0)),
        )
        for found in ray.nodes()
        if found["Alive"]
    ]


def _silence(ray: Any) -> None:
    """Log what Ray reports about lost workers and nodes, instead of printing it to standard output.

    Ray prints these reports even if `log_to_driver` is off, which would damage the output of `--json`.
    """

    def log(data: dict[str, Any], *_: object, **__: object) -> None:
        _LOG.info("ray: %s", "\n".join(map(str, data.get("lines", ()))))

    if hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = log


def _restore(handler: Any) -> None:
    with contextlib.suppress(ValueError):  # not the main thread, where Ray changes nothing
        signal.signal(signal.SIGTERM, handler)


def _head(address: str) -> str:
    """Return `HOST:PORT` of the head, which accepts connections.

    Raises:
        ClusterError: The address is not valid, or nothing accepts connections there.
    """
    given = address
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", "") or _local_head()
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ClusterError(
            "not the address of a Ray cluster",
            received=repr(address),
            expected="auto, or HOST:PORT of the head, such as 10.0.0.5:6379",
            fix="`ray start --head` prints the address.",
        )
    host = found["host"].strip("[]")
    if host == "localhost" or host.startswith("127.") or host == "::1":
        raise ClusterError(
            "Ray replaces loopback addresses by another address of the machine",
            received=address,
            expected="the address that `ray start --head` printed, or auto",
        )
    try:
        with socket.create_connection((host, int(found["port"])), timeout=_SECONDS):
            return address
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster accepts connections at {address}",
            received=str(error),
            fix="Start one with `ray start --head`" + (", or pass its address." if given == AUTO else "."),
        ) from error


def _local_head() -> str:
    """Return the address of the cluster that was started on this machine.

    Raises:
        ClusterError: There is none.
    """
    from ray._private.services import canonicalize_bootstrap_address  # noqa: PLC0415 (an extra)

    try:
        address = canonicalize_bootstrap_address(AUTO)
    except (ConnectionError, RuntimeError) as error:
        raise ClusterError(
            "no Ray cluster runs on this machine",
            received=str(error).splitlines()[0],
            fix=f"Pass the address of its head, HOST:PORT. {_GUIDE}",
        ) from error
    return str(address)


def _check_head(head: str) -> None:
    """Check that a head accepts this user's token, and refuses clients without one.

    Raises:
        ClusterError: It does not.
    """
    without = dict(os.environ) | {_MODE: "disabled"}
    runs = [
        subprocess.Popen(  # -P: nothing is imported from the working directory
            [sys.executable, "-P", "-c", _PROBE, head],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for environment in (without, dict(os.environ))
    ]  # fmt: skip
    lines = []
    for run in runs:
        try:
            text = run.communicate(timeout=6 * _SECONDS)[1].strip()
        except subprocess.TimeoutExpired:
            run.kill()
            text = run.communicate()[1] + "\nno answer"
        lines.append("" if run.returncode == 0 else text.splitlines()[-1] if text else "no answer")
    open_to_all, own = lines
    if not open_to_all:
        raise ClusterError(
            f"the Ray cluster {head} requires no token: every client that reaches it can run programs on it",
            received="a connection without a token was accepted",
            expected="a cluster that was started with RAY_AUTH_MODE=token",
            fix=_TOKEN,
        )
    if own:
        raise ClusterError(
            f"the Ray cluster {head} cannot be used with this token",
            received=own,
            expected="the token of the cluster in ~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN",
            fix=_TOKEN,
        )
    if "Authentication" not in open_to_all:
        raise ClusterError(
            f"it is unknown whether the Ray cluster {head} requires a token",
            received=open_to_all,
            expected="an answer that refuses clients without a token",
            fix="Repeat the command; if this stays, use another version of Ray.",
        )
