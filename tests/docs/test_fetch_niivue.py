"""Test that NiiVue is installed from the expected package only, with its licence."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from scripts import fetch_niivue


def package(path: Path, script: bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(fetch_niivue.MEMBER)
        member.size = len(script)
        archive.addfile(member, io.BytesIO(script))
    return path


def test_the_viewer_and_its_licence_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package(tmp_path / "a.tgz", b"the viewer")
    digest = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    monkeypatch.setattr(fetch_niivue, "INTEGRITY", digest)
    fetch_niivue.install(file, tmp_path / "niivue")
    assert (tmp_path / "niivue" / "niivue.umd.js").read_bytes() == b"the viewer"
    assert "Redistributions in binary form" in (tmp_path / "niivue" / "LICENSE.txt").read_text()


def test_another_package_is_refused_and_the_installed_one_stays(tmp_path: Path) -> None:
    (tmp_path / "niivue").mkdir()
    (tmp_path / "niivue" / "niivue.umd.js").write_bytes(b"before")
    with pytest.raises(SystemExit, match=f"is not {fetch_niivue.PACKAGE}"):
        fetch_niivue.install(package(tmp_path / "a.tgz", b"something else"), tmp_path / "niivue")
    assert (tmp_path / "niivue" / "niivue.umd.js").read_bytes() == b"before"
