"""Test that a temporary file is refused on a file system in memory and on a full disk."""

from __future__ import annotations

import tempfile

from gcis_runtime.sliding import carry_over


def test_a_file_is_no_way_out_where_it_lies_in_memory_or_does_not_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    monkeypatch.setattr(carry_over, "_MOUNTS", mounts)
    assert "lies in memory: set TMPDIR" in carry_over.room_for_file(1)
    mounts.write_text("/dev/a / ext4 rw 0 0\n")
    assert carry_over.room_for_file(1) is None
    assert "are needed" in carry_over.room_for_file(1 << 60)
    mounts.unlink()
    assert carry_over.room_for_file(1) is None
