"""Fetch NiiVue, the viewer in the page of `gcis-serve`, into the package data, as before building a wheel.

python -m scripts.fetch_niivue               with npm, from its registry
python -m scripts.fetch_niivue FILE.tgz      from a package file that was fetched before

Without NiiVue, the service draws the slices itself. The files are not part of the repository.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "0.69.0"
INTEGRITY = "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
"""SHA-512 of the package file, as npm publishes it."""
PACKAGE = f"@niivue/niivue@{VERSION}"
MEMBER = "package/dist/niivue.umd.js"
TARGET = Path(__file__).parents[1] / "gcis_runtime" / "serve" / "page" / "assets" / "niivue"

LICENSE = f"""NiiVue {VERSION}, https://github.com/niivue/niivue

BSD 2-Clause License

Copyright (c) 2021, Niivue
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice,
   this list of conditions and the following disclaimer in the documentation
   and/or other materials provided with the distribution.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


def fetch(folder: Path) -> Path:
    """Fetch the package file into a folder with npm, and return its path."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm is not installed. Install Node.js, or pass the package file of {PACKAGE}.")
    done = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=False)
    found = list(folder.glob("*.tgz"))
    if done.returncode or len(found) != 1:
        raise SystemExit(f"npm cannot fetch {PACKAGE}.")
    return found[0]


def install(package: Path, target: Path) -> None:
    """Check a package file, and write the viewer and its licence to a folder.

    Args:
        package: The package file.
        target: The folder, which is replaced.
    """
    data = package.read_bytes()
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != INTEGRITY:
        raise SystemExit(f"{package} is not {PACKAGE}: received SHA-512 {found}, expected {INTEGRITY}.")
    with tarfile.open(package) as archive:
        member = archive.extractfile(MEMBER)
        if member is None:
            raise SystemExit(f"{package} has no {MEMBER}.")
        script = member.read()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")
    (target / "niivue.umd.js").write_bytes(script)


def main() -> None:
    """Fetch and install NiiVue."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fetch_niivue", description=__doc__)
    parser.add_argument("package", nargs="?", type=Path, metavar="FILE.tgz")
    package = parser.parse_args().package
    with tempfile.TemporaryDirectory() as folder:
        install(package or fetch(Path(folder)), TARGET)
    sys.stdout.write(f"{TARGET}: NiiVue {VERSION}\n")


if __name__ == "__main__":
    main()
