"""Start a Ray cluster of two nodes in a network namespace, whose ports nobody else can reach."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HEAD, NODE, OTHER = "10.77.0.1", "10.77.0.2", "10.77.0.3"
_ADDRESSES = """
import fcntl, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
for number, address in enumerate(sys.argv[1:]):
    sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(s, 0x8916, struct.pack("16s16s", f"lo:{number}".encode(), sockaddr))  # SIOCSIFADDR
print("ready", flush=True)
sys.stdin.read()
"""
_WORKERS = """
import os
with open("/proc/self/cmdline") as file:
    if "default_worker" in file.read():
        import sys, time
        if os.environ.get("GCIS_TEST_WITHOUT"):
            sys.modules[os.environ["GCIS_TEST_WITHOUT"]] = None
        from gcis_runtime.fleet import worker
        read = worker.read_case
        def read_case(segmenter, job, options):
            time.sleep(0.6)
            if "deadly" in job.name:
                os.kill(os.getpid(), 9)
            return read(segmenter, job, options)
        worker.read_case = read_case
"""
"""Executed by workers at their start: cases take long enough to be interrupted, and one ends its process."""


def network_namespace_problem() -> str | None:
    """Return why this process cannot make network namespaces; None if it can."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "unshare and nsenter are not installed"
    done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() or "unshare failed" if done.returncode else None


@dataclass
class RayCluster:
    """A network namespace with Ray processes.

    Attributes:
        folder: Short folder for files of Ray, whose socket paths have at most 107 bytes.
        environment: Variables of every program in the namespace.
        holder: Process that keeps the namespace.
    """

    folder: Path
    environment: dict[str, str]
    holder: Any

    @property
    def inside(self) -> list[str]:
        """First words of a command that runs in the namespace."""
        return ["nsenter", "-t", str(self.holder.pid), "-U", "-n", "--preserve-credentials"]

    def start(self, address: str, *options: str, **variables: str) -> None:
        """Start the processes of a node, and wait until it is up."""
        words = [
            str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={address}",
            "--num-cpus=1", "--memory=4000000000", "--object-store-memory=80000000", "--disable-usage-stats",
            *options,
        ]  # fmt: skip
        done = subprocess.run(
            [*self.inside, *words], env=self.environment | variables,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=240,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout)

    def popen(self, *words: object, **variables: str) -> subprocess.Popen[str]:
        """Start a program of gCIS in the namespace."""
        return subprocess.Popen(
            [*self.inside, sys.executable, "-m", *map(str, words)], env=self.environment | variables,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def processes(self, part: str) -> list[int]:
        """Return the processes of the namespace whose command line contains a text."""
        own = Path(f"/proc/{self.holder.pid}/ns/net").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.holder.pid:
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if (entry / "ns/net").readlink() == own and part in command:
                        found.append(int(entry.name))
        return found

    def kill(self, part: str) -> int:
        """Kill the processes of the namespace whose command line contains a text, and return their number."""
        found = self.processes(part)
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return len(found)


@contextlib.contextmanager
def namespace() -> Iterator[RayCluster]:
    """Make a network namespace; kill everything in it at the end."""
    holder = subprocess.Popen(
        ["unshare", "-rn", sys.executable, "-c", _ADDRESSES, HEAD, NODE, OTHER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="gr", dir="/tmp"))
    try:
        if holder.stdout is None or holder.stdout.readline() != "ready\n":
            raise RuntimeError("the network namespace has no addresses")
        (folder / "token").write_text(secrets.token_hex(32))
        (folder / "sitecustomize.py").write_text(_WORKERS)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "PYTHONPATH": f"{folder}:{ROOT}",
            "RAY_TMPDIR": str(folder),  # `auto` reads the address of the cluster there
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        cluster = RayCluster(folder=folder, environment=environment, holder=holder)
        yield cluster
        cluster.kill("")
    finally:
        holder.kill()
        holder.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)
