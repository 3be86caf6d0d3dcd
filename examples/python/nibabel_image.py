"""Segment a nibabel image into one on the same grid: `nibabel_image.py BUNDLE CT SEG`."""

import sys

import nibabel as nib

from gcis_runtime import Segmenter


def main(bundle: str, ct: str, seg: str) -> None:
    """Read, segment and write with nibabel."""
    with Segmenter.open(bundle) as segmenter:
        nib.save(segmenter.segment(nib.load(ct)).to_nibabel(), seg)


if __name__ == "__main__":
    main(*sys.argv[1:])
