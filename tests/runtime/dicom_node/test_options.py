"""Test that a node refuses settings that would open it to everybody, and destinations that name nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcis_runtime.dicom_node.destinations import NodeDestination, WebDestination, parse_destination
from gcis_runtime.dicom_node.options import NodeOptions
from gcis_runtime.errors import OutputError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"callers": ()}, "needs the AE titles that may connect"),
        ({"host": "0.0.0.0"}, "needs the networks that may connect"),
        ({"host": "192.168.1.5"}, "needs the networks that may connect"),
        ({"peers": ("10.0.0.1/8",)}, "a network is invalid"),
        ({"title": "A" * 17}, "AE title is invalid"),
        ({"callers": ("",)}, "AE title is invalid"),
        ({"callers": ("PÄCS",)}, "AE title is invalid"),
    ],
)
def test_unsafe_settings_are_refused(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        NodeOptions(**{"folder": tmp_path, "callers": ("PACS",), **values})


def test_peers_are_networks(tmp_path: Path) -> None:
    local = NodeOptions(folder=tmp_path, callers=("PACS",))
    assert local.admits("127.0.0.1") and local.admits("::1") and local.admits("::ffff:127.0.0.1")
    assert not local.admits("10.1.2.3") and not local.admits("x")
    wide = NodeOptions(folder=tmp_path, callers=("PACS",), host="0.0.0.0", peers=("10.1.0.0/16",))
    assert wide.admits("10.1.2.3") and not wide.admits("10.2.0.1") and not wide.admits("127.0.0.1")


def test_destinations() -> None:
    assert parse_destination("PACS@pacs.local:104") == NodeDestination(
        title="PACS", host="pacs.local", port=104
    )
    assert parse_destination("PACS@[::1]:104") == NodeDestination(title="PACS", host="::1", port=104)
    for text in ("https://pacs/dicom-web", "https://pacs/dicom-web/", "https://pacs/dicom-web/studies"):
        assert parse_destination(text) == WebDestination(url="https://pacs/dicom-web")
    assert str(parse_destination("PACS@pacs:104")) == "PACS@pacs:104"
    for text in ("", "pacs", "PACS@pacs", "PACS@pacs:0", "PACS@pacs:99999", "file:///etc", "http://", "@h:1",
                 "http://user:word@pacs/", "A" * 17 + "@h:1"):  # fmt: skip
        with pytest.raises(OutputError, match=r"destination is invalid|AE title"):
            parse_destination(text)
