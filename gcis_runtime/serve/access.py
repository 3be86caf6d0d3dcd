"""Check the address, the token and the times of a service."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from gcis_runtime import platforms
from gcis_runtime.errors import OutputError
from gcis_runtime.system.own_files import read_small

_LOG = logging.getLogger(__name__)
_SHORTEST, _LONGEST = 16, 4096
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_token(path: Path) -> bytes:
    """Read a token from the first line of a file; log a warning if every user of the machine can read it.

    The file may be a link, as in the folders of Kubernetes secrets.

    Raises:
        OutputError: The file cannot be read, or its token is too short or not printable ASCII.
    """
    try:
        file = path.resolve(strict=True)
        data, mode = read_small(file, most_bytes=_LONGEST), file.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise OutputError(
            "the token file cannot be read",
            received=f"{path}: {getattr(error, 'strerror', None) or error}",
            expected="a small file with the token",
            fix="Create one: python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE",
        ) from error
    token = (data.splitlines() or [b""])[0].strip()
    if len(token) < _SHORTEST or not re.fullmatch(rb"[!-~]+", token):
        raise OutputError(
            f"{path} has no usable token",
            received=f"{len(token)} bytes in its first line",
            expected=f"at least {_SHORTEST} printable ASCII characters without spaces",
            fix="Create one: python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE",
        )
    if mode & stat.S_IROTH and not platforms.WINDOWS:
        _LOG.warning("warning: every user of this machine can read %s; run: chmod 600 %s", path, path)
    return token


def check_address(host: str, token: bytes | None, *, without_token: bool) -> None:
    """Refuse to listen where other machines reach the service without a token.

    Raises:
        OutputError: There is no token, and `host` is not an address of this machine alone.
    """
    if token is not None or without_token or is_loopback(host):
        return
    raise OutputError(
        f"{host} can be reached from other machines",
        received="no token",
        expected="--token-file FILE, or --host 127.0.0.1",
        fix="Pass --token-file, or --without-token if only trusted programs can reach the port.",
    )


def admitted_hosts(host: str, names: Sequence[str], *, without_token: bool) -> Sequence[str] | None:
    """Return the host names that requests may use without a token; None admits every name.

    Every name is admitted only where others reach the service by names that are not known. On this machine
    alone, a page of another site could otherwise read jobs through a name that resolves to this machine.
    """
    return None if without_token and not names and not is_loopback(host) else names


def is_loopback(host: str) -> bool:
    """Return whether every address of a host name is one that only this machine reaches."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in found)


def duration(text: str) -> float:
    """Parse a time such as `90s`, `30m`, `24h` or `7d`, and return seconds.

    Raises:
        OutputError: The text is not a time.
    """
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)\s*", text)
    if found is None:
        raise OutputError(
            "not a time", received=repr(text), expected="a number with or without s, m, h or d",
            fix="Write it as 30m, 24h or 7d.",
        )  # fmt: skip
    return float(found[1]) * _UNITS[found[2] or "s"]
