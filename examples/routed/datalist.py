"""Combine the datalists of head-and-neck patients and of lesion patients for the routed example.

    python datalist.py HEADNECK.json LESION.json OUT.json [--repeat N] [--every N]

The head-and-neck patients get a further row that states that the lesion is absent: a label value that their
label files do not contain. Every lesion patient counts `--repeat` times per epoch, since these patients are
few.
`--every` keeps every Nth of the head-and-neck training patients only, for machines with little time.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

LESION = "soft tissue sarcoma"
NO_SUCH_VALUE = 200


def moved(row: dict[str, Any], folder: Path, to: Path) -> dict[str, Any]:
    """Return a row whose paths are relative to the folder `to` instead of `folder`."""
    return {**row, **{key: os.path.relpath(folder / row[key], to) for key in ("image", "label")}}


def combine(
    headneck: Path, lesion: Path, to: Path, *, repeat: int, every: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the combined lists, with the paths relative to the folder `to`."""
    organs, lesions = (json.loads(path.read_text()) for path in (headneck, lesion))
    combined = {}
    for split in ("training", "validation"):
        rows = [moved(row, headneck.parent, to) for row in organs[split]]
        files = {row["image"]: row["label"] for row in rows}
        if split == "training":
            files = dict(list(files.items())[::every])
            rows = [row for row in rows if row["image"] in files]
        rows += [
            {"image": image, "label": label, "label_value": NO_SUCH_VALUE, "prompt": LESION}
            for image, label in files.items()
        ]
        rows += [
            {**moved(row, lesion.parent, to), "prompt": LESION, "repeat": repeat} for row in lesions[split]
        ]
        combined[split] = rows
    return combined


def main() -> None:
    """Write the combined datalist."""
    parser = argparse.ArgumentParser(description="Combine two datalists.")
    parser.add_argument("headneck", type=Path)
    parser.add_argument("lesion", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    to = given.out.resolve().parent
    lists = combine(
        given.headneck.resolve(), given.lesion.resolve(), to, repeat=given.repeat, every=given.every
    )
    given.out.write_text(json.dumps(lists, indent=1) + "\n")


if __name__ == "__main__":
    main()
