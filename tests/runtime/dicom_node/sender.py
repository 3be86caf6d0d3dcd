"""Send the DICOM files of a folder to a node, and print the statuses: a program of another process.

    python -m tests.runtime.dicom_node.sender PORT CALLING CALLED [FOLDER]

Prints one JSON document: how the association ended, the status of C-ECHO, and those of C-STORE by file.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE

_FOLDER = Path(__file__).parents[3]


def send(
    port: int, folder: Path | None = None, *, calling: str = "PACS", called: str = "GCIS"
) -> dict[str, Any]:
    arguments = [str(port), calling, called, *([] if folder is None else [str(folder)])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.dicom_node.sender", *arguments],
        cwd=_FOLDER, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def main(port: int, calling: str, called: str, folder: Path | None) -> dict[str, object]:
    """Send everything in one association."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    ae = AE(ae_title=calling)
    ae.add_requested_context("1.2.840.10008.1.1")
    datasets = {} if folder is None else {f.name: pydicom.dcmread(f) for f in sorted(folder.iterdir())}
    for context in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets.values()}:
        ae.add_requested_context(*context)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return {"association": "rejected" if association.is_rejected else "aborted"}
    echo = association.send_c_echo().get("Status")
    statuses = {}
    for name, ds in datasets.items():
        try:
            statuses[name] = association.send_c_store(ds).get("Status")
        except (RuntimeError, ValueError) as error:
            statuses[name] = type(error).__name__
    ended = "released" if association.is_established else "aborted"
    association.release()
    return {"association": ended, "echo": echo, "store": statuses}


if __name__ == "__main__":
    given = sys.argv[4:]
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(given[0]) if given else None)))
