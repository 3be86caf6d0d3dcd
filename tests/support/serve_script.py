"""Run `gcis-serve` so that an image of 7 x 7 x 7 voxels kills the process, once three jobs were accepted.

The system kills processes in this way when its memory is exhausted.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from gcis_runtime.cli.serve import main
from gcis_runtime.serve import work

HONEST = work.segment_case


def deadly(segmenter: Any, case: Any, *rest: Any) -> Any:
    """Segment a case, or kill the process."""
    if case.volume.shape == (7, 7, 7):
        while len(list(case.job.labels.parents[2].iterdir())) < 3:
            time.sleep(0.05)
        time.sleep(0.2)  # the last answer is sent
        os.kill(os.getpid(), signal.SIGKILL)
    return HONEST(segmenter, case, *rest)


if __name__ == "__main__":
    work.segment_case = deadly
    main()
