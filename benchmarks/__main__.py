"""`python -m benchmarks`: dated records of time, memory and accuracy."""

from __future__ import annotations

from benchmarks.cli import main

if __name__ == "__main__":
    main()
