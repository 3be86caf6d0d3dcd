"""Segment a SimpleITK image into one on the same grid: `simpleitk_image.py BUNDLE CT SEG`."""

import sys

import SimpleITK as sitk  # noqa: N813 (the usual abbreviation)

from gcis_runtime import Segmenter


def main(bundle: str, ct: str, seg: str) -> None:
    """Read, segment and write with SimpleITK; LPS and RAS coordinates are converted."""
    with Segmenter.open(bundle) as segmenter:
        sitk.WriteImage(segmenter.segment(sitk.ReadImage(ct)).to_simpleitk(), seg)


if __name__ == "__main__":
    main(*sys.argv[1:])
