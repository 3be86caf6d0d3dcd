"""Run `gcis-train` as `python -m gcis_train`."""

from __future__ import annotations

from gcis_train.cli.main import main

if __name__ == "__main__":
    main()
