"""Test that only complete, matching cache entries in a private folder are used."""

from __future__ import annotations

import os

import pytest

from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.errors import OutputError
from gcis_runtime.system import private_cache, secret_key
from gcis_runtime.system.private_cache import PrivateCache, open_cache, open_cache_beside

KEY = {"graph": "abc", "version": "1"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    return open_cache(tmp_path / "cache")


def put(cache, data=b"engine", key=KEY):
    return cache.store("kind", key, lambda path: path.write_bytes(data))


def test_what_was_stored_is_found(cache):
    assert cache.find("kind", KEY) is None
    assert put(cache).read_bytes() == b"engine"
    assert cache.find("kind", dict(reversed(KEY.items()))).read_bytes() == b"engine"
    assert cache.find("other", KEY) is None
    assert cache.find("kind", {**KEY, "version": "2"}) is None
    put(cache, b"newer")
    assert cache.find("kind", KEY).read_bytes() == b"newer"
    assert not list(cache.folder.glob(".*")), "no temporary file is left"


@pytest.mark.parametrize("damage", [b"engimE", b"engine and more", b"", None])
def test_damage_is_found(cache, damage):
    data = put(cache)
    if damage is None:
        data.unlink()
    else:
        data.write_bytes(damage)
    assert cache.find("kind", KEY) is None
    put(cache)
    assert cache.find("kind", KEY).read_bytes() == b"engine"


def test_a_note_for_another_key_or_a_broken_one_is_not_believed(cache):
    put(cache)
    (note,) = cache.folder.glob("*.json")
    text = note.read_text()
    note.write_text(text.replace('"abc"', '"abd"'))
    assert cache.find("kind", KEY) is None
    for data in (text[:-5].encode(), b"\xff" + text.encode(), b"[" * 100_000, b'{"key": 1e999}'):
        note.write_bytes(data)
        assert cache.find("kind", KEY) is None


def test_the_folder_is_private(tmp_path):
    folder = tmp_path / "deep" / "cache"
    assert open_cache(folder).folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert open_cache(folder) is not None
    assert folder.stat().st_mode & 0o777 == 0o700, "it was closed again"
    folder.chmod(0o777)
    assert open_cache(folder) is None, "others may have planted entries"


def test_an_entry_that_was_not_written_with_the_key_of_this_user_is_not_used(cache, tmp_path, monkeypatch):
    put(cache)
    (note,), home = cache.folder.glob("*.json"), tmp_path / "other"
    planted = PrivateCache(folder=cache.folder, secret=b"another user's key")
    put(planted, b"malice")
    assert note.exists() and planted.find("kind", KEY).read_bytes() == b"malice"
    assert cache.find("kind", KEY) is None
    put(cache)
    monkeypatch.setenv("GCIS_HOME", str(home))
    other = open_cache(cache.folder)
    assert other.find("kind", KEY) is None, "another home folder, no key"
    put(other, b"other", {"n": "1"})
    assert (home / "cache" / "keys").stat().st_mode & 0o777 == 0o700
    assert (home / "cache" / "keys" / "cache.key").stat().st_mode & 0o777 == 0o600


def test_an_entry_of_another_kind_or_place_is_not_used(cache):
    put(cache)
    (note,) = cache.folder.glob("*.json")
    (data,) = cache.folder.glob("*.bin")
    note.rename(note.with_name(note.name.replace("kind", "trt")))
    data.rename(data.with_name(data.name.replace("kind", "trt")))
    assert cache.find("trt", KEY) is None


@pytest.mark.parametrize("name", ["*.json", "*.bin"])
@pytest.mark.parametrize("harm", ["writable", "link"])
def test_a_file_that_others_could_write_is_not_used(cache, tmp_path, name, harm):
    put(cache)
    (file,) = cache.folder.glob(name)
    if harm == "writable":
        file.chmod(0o666)
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    assert cache.find("kind", KEY) is None


@pytest.mark.parametrize("harm", ["readable", "link", "short"])
def test_without_a_private_key_nothing_is_cached(tmp_path, monkeypatch, harm):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    cache = open_cache()
    assert cache.find("kind", KEY) is None and not (tmp_path / "home" / "cache" / "keys").exists()
    put(cache)
    keys = tmp_path / "home" / "cache" / "keys"
    if harm == "readable":
        (keys / "cache.key").chmod(0o644)
    elif harm == "short":
        (keys / "cache.key").write_bytes(b"x")
    else:
        keys.rename(tmp_path / "keys")
        keys.symlink_to(tmp_path / "keys")
    assert cache.find("kind", KEY) is None
    assert put(cache) is None


def test_no_cache_in_a_link_a_file_or_a_strangers_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert open_cache(tmp_path / "file") is None
    (tmp_path / "link").symlink_to(tmp_path)
    assert open_cache(tmp_path / "link") is None
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert open_cache(tmp_path / "new") is None


def test_beside_a_bundle_where_nobody_else_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    bundle = tmp_path / "b.gcis"
    bundle.mkdir()
    tmp_path.chmod(0o755)
    assert open_cache_beside(bundle).folder == tmp_path / "b.gcis.cache"
    tmp_path.chmod(0o777)
    assert open_cache_beside(bundle).folder == tmp_path / "home" / "cache"
    tmp_path.chmod(0o755)


def test_nothing_is_stored_in_the_installed_package(tmp_path, monkeypatch):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    assert open_cache_beside(DEMO_FOLDER).folder == tmp_path / "home" / "cache"
    assert not DEMO_FOLDER.with_name(f"{DEMO_FOLDER.name}.cache").exists()


def test_a_full_disk_is_no_error(cache):
    def refuse(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    assert cache.store("kind", KEY, refuse) is None
    assert list(cache.folder.iterdir()) == []


def test_the_least_recently_used_go_first(tmp_path):
    cache = PrivateCache(folder=tmp_path, limit=30, secret=b"key")
    keys = [{"n": str(i)} for i in range(3)]
    for i, key in enumerate(keys):
        put(cache, bytes([i]) * 10, key)
        os.utime(cache._note("kind", key), (i, i))
    assert cache.find("kind", keys[0]) is not None  # used now
    put(cache, b"x" * 10, {"n": "new"})
    assert [cache.find("kind", key) is not None for key in keys] == [True, False, True]
    assert sum(f.stat().st_size for f in tmp_path.glob("*.bin")) <= 30


def test_a_record_of_an_earlier_version_is_reported_once(cache, caplog):
    old = cache.folder / "kind-0123456789abcdef01234567.json"
    old.write_text('{"key": {"graph": "old"}, "sha256": "0"}')
    put(cache)
    assert caplog.text.count(f"{old} is ignored") == 1 and not old.exists()
    put(cache, b"newer")
    assert caplog.text.count("is ignored") == 1
    assert cache.find("kind", KEY).read_bytes() == b"newer"


def test_two_writers_leave_one_whole_entry(cache):
    """The second process writes while the first is writing; each names its own data file."""

    def outer(path):
        put(cache, b"inner")
        path.write_bytes(b"outer")

    cache.store("kind", KEY, outer)
    assert cache.find("kind", KEY).read_bytes() == b"outer"


def test_a_user_without_a_home_folder_has_no_cache_and_no_key(cache, monkeypatch):
    put(cache)

    def no_home():
        raise OutputError("this user has no home")

    for module in (private_cache, secret_key):
        monkeypatch.setattr(module, "home_folder", no_home)
    assert open_cache() is None
    assert secret_key.secret_key(create=True) is None
    assert cache.find("kind", KEY) is None
    assert put(cache) is None
