"""Define where results are sent: a DICOM node, or a DICOMweb server."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from gcis_runtime.dicom_node.titles import check_title
from gcis_runtime.errors import OutputError

_NODE = re.compile(r"(?P<title>[^@]+)@(?P<host>[^@/\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class NodeDestination:
    """A DICOM node that accepts C-STORE."""

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class WebDestination:
    """A DICOMweb server that accepts STOW-RS; `url` ends before `/studies`."""

    url: str

    def __str__(self) -> str:
        return self.url


Destination = NodeDestination | WebDestination


def parse_destination(text: str) -> Destination:
    """Return the destination that `AET@HOST:PORT` or the URL of a DICOMweb server names.

    Raises:
        OutputError: It is neither.
    """
    clean = text.strip()
    if clean.startswith(("http://", "https://")):
        parts = urllib.parse.urlsplit(clean)
        if parts.hostname and not parts.username and not parts.query and not parts.fragment:
            return WebDestination(url=clean.rstrip("/").removesuffix("/studies"))
    elif (found := _NODE.fullmatch(clean)) and 0 < (port := int(found["port"])) < 65536:
        return NodeDestination(title=check_title(found["title"]), host=found["host"].strip("[]"), port=port)
    raise OutputError(
        "the destination is invalid",
        received=ascii(text),
        expected="AET@HOST:PORT, or the URL of a DICOMweb server such as https://pacs/dicom-web",
    )
