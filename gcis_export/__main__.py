"""Run gcis-export as `python -m gcis_export`."""

from __future__ import annotations

from gcis_export.cli import main

if __name__ == "__main__":
    main()
