"""Segment every CT of a folder, with threads for reading and writing: `folder.py BUNDLE IN OUT`."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gcis_runtime import GcisError, Segmenter, read_volume


def main(bundle: str, images: Path, out: Path) -> int:
    """Segment the images and return the number of failures."""
    with Segmenter.open(bundle) as segmenter, ThreadPoolExecutor(max_workers=2) as pool:

        def one(image: Path) -> str | None:
            try:
                segmenter.segment(read_volume(image)).save(out / image.name)
            except GcisError as error:  # one line: received, expected, what to do
                return str(error)
            return None

        files = sorted(images.glob("*.nii.gz"))
        failed = 0
        for image, problem in zip(files, pool.map(one, files), strict=True):
            print(f"{image.name}: {problem or 'done'}")
            failed += problem is not None
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
