"""Test that a bundle is written completely or not at all."""

from __future__ import annotations

import pytest

from gcis_export.bundle.writer import staged
from gcis_runtime.bundles.manifest import MANIFEST_FILE
from gcis_runtime.errors import OutputError, ParityError


def _fill(folder, text):
    (folder / MANIFEST_FILE).write_text(text)


def test_a_new_bundle_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "deep" / "b.gcis"
    with staged(target) as folder:
        _fill(folder, "new")
        assert not target.exists() and folder.parent == target.parent
    assert [p.name for p in target.parent.iterdir()] == ["b.gcis"]
    assert (target.stat().st_mode & 0o777, (target / MANIFEST_FILE).stat().st_mode & 0o777) == (0o755, 0o644)


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(ParityError), staged(tmp_path / "b.gcis") as folder:
        _fill(folder, "half")
        raise ParityError("broken")
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_is_replaced_only_by_a_whole_one(tmp_path):
    target = tmp_path / "b.gcis"
    with staged(target) as folder:
        _fill(folder, "old")
    with pytest.raises(ParityError), staged(target) as folder:
        _fill(folder, "half")
        raise ParityError("broken")
    assert (target / MANIFEST_FILE).read_text() == "old"
    with staged(target) as folder:
        _fill(folder, "new")
    assert (target / MANIFEST_FILE).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b.gcis"]


def test_what_is_not_a_bundle_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(OutputError, match="is not a bundle"), staged(tmp_path / name):
            pass
    with pytest.raises(OutputError, match="cannot be written"), staged(tmp_path / "file" / "b.gcis"):
        pass
