"""Start the Triton Inference Server of the environment that scripts/triton_server creates."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = Path(os.environ.get("GCIS_TRITON_ENV", ROOT / ".venv-triton"))


def server_folder() -> Path | None:
    """Return the folder with the server and its backends; None if it is not installed."""
    return next(iter(VENV.glob("lib/python*/site-packages/pytriton/tritonserver")), None)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def triton(repository: Path, work: Path) -> Iterator[str]:
    """Serve a model repository, and yield the address of its gRPC service on this machine."""
    folder = server_folder()
    if folder is None:
        raise RuntimeError("there is no server")
    site = folder.parents[1]
    version = site.parent.name.removeprefix("python")
    backend = work / "backends" / "python"
    shutil.copytree(folder / "backends" / "python", backend)
    shutil.copy(folder / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    home = subprocess.run(
        [VENV / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    environment = os.environ | {
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        # The stub contains no interpreter: it loads that of the environment.
        "LD_LIBRARY_PATH": f"{home}:{site / 'nvidia_pytriton.libs'}:{folder / 'external_libs'}",
        "PYTHONPATH": f"{ROOT}:{site}",
        "OMP_NUM_THREADS": "1",
    }
    port = free_port()
    log = work / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                folder / "bin" / "tritonserver", f"--model-repository={repository}",
                f"--backend-directory={backend.parent}", "--allow-http=false", "--allow-metrics=false",
                "--grpc-address=127.0.0.1", f"--grpc-port={port}",
            ],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield _when_ready(server, f"127.0.0.1:{port}", log)
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _when_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> str:
    """Wait until the server accepts requests."""
    import tritonclient.grpc as client

    end = time.monotonic() + 180
    with client.InferenceServerClient(address) as probe:
        while time.monotonic() < end and server.poll() is None:
            with contextlib.suppress(client.InferenceServerException):
                if probe.is_server_ready():
                    return address
            time.sleep(0.2)
    lines = [line for line in log.read_text().splitlines() if not line.startswith(("|", "+"))]
    raise RuntimeError("\n".join(lines)[-6000:])
