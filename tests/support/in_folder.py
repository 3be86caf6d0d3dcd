"""Run a module in another folder: python -m tests.support.in_folder FOLDER MODULE ARGUMENT..."""

from __future__ import annotations

import os
import runpy
import sys

if __name__ == "__main__":
    os.chdir(sys.argv[1])
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
