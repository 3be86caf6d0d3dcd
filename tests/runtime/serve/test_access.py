"""Test addresses, tokens and times of the service's command, and the recommended wait of its queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gcis_runtime.cli.serve import main
from gcis_runtime.errors import OutputError
from gcis_runtime.serve.access import admitted_hosts, check_address, duration, is_loopback, read_token
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.queue import JobQueue


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_needs_a_token(host: str) -> None:
    with pytest.raises(OutputError, match="Pass --token-file"):
        check_address(host, None, without_token=False)
    check_address(host, b"0123456789abcdef", without_token=False)
    check_address(host, None, without_token=True)


def test_addresses_of_this_machine_need_none() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        check_address(host, None, without_token=False)
    assert not is_loopback("no such name.invalid")


def test_the_command_refuses_such_an_address_in_one_line() -> None:
    done = CliRunner().invoke(main, ["--bundle", "demo", "--host", "0.0.0.0"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert "0.0.0.0 can be reached from other machines; received no token" in done.stderr


@pytest.mark.parametrize("text", ["", "short\n", "with a space in between\n", "ümlaut-0123456789\n"])
def test_unusable_tokens_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(OutputError, match="no usable token") as caught:
        read_token(tmp_path / "token")
    assert "short" not in str(caught.value), "a token is not printed"


def test_a_token_is_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\nnext\n")
    assert read_token(tmp_path / "token") == b"0123456789abcdef"
    with pytest.raises(OutputError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_a_token_may_be_reached_through_links(tmp_path: Path) -> None:
    """Kubernetes mounts a secret as `token -> ..data/token`, `..data -> ..2026_11_28`."""
    (tmp_path / "..2026_11_28").mkdir()
    (tmp_path / "..2026_11_28" / "token").write_text("0123456789abcdef\n")
    (tmp_path / "..data").symlink_to("..2026_11_28")
    (tmp_path / "token").symlink_to("..data/token")
    assert read_token(tmp_path / "token") == b"0123456789abcdef"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="cannot be read"):
        read_token(tmp_path / "loop")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_token_that_every_user_can_read_is_warned_of(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    (tmp_path / "token").chmod(mode)
    read_token(tmp_path / "token")
    assert ("every user of this machine can read" in caplog.text) == (mode == 0o644)
    assert "0123456789abcdef" not in caplog.text


def test_times_have_units() -> None:
    assert [duration(text) for text in ("90", "90s", "1.5m", "24h", "7d")] == [90, 90, 90, 86400, 604800]
    with pytest.raises(OutputError, match="not a time"):
        duration("soon")


def test_the_recommended_wait_grows_up_to_a_limit_and_starts_again() -> None:
    queue = JobQueue(1)
    queue.put("a")
    waits = []
    for _ in range(200):
        with pytest.raises(ServeError) as caught:
            queue.refuse_if_full()
        waits.append(caught.value.retry_after)
    assert waits == sorted(waits) and waits[-1] == 600
    assert queue.take() == "a"
    queue.refuse_if_full()
    queue.put("b")
    with pytest.raises(ServeError) as caught:
        queue.refuse_if_full()
    assert caught.value.retry_after == waits[0]
    queue.measured(100.0)
    assert queue.retry_after(1) > waits[0]


def test_names_are_checked_without_a_token_unless_they_cannot_be_known() -> None:
    assert admitted_hosts("0.0.0.0", (), without_token=True) is None
    assert admitted_hosts("127.0.0.1", (), without_token=True) == ()
    assert admitted_hosts("0.0.0.0", ("segment.example",), without_token=True) == ("segment.example",)
    assert admitted_hosts("127.0.0.1", (), without_token=False) == ()
