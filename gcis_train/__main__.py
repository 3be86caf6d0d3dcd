"""`python -m gcis_train`: the same as `gcis-train`."""

from __future__ import annotations

from gcis_train.cli import main

if __name__ == "__main__":
    main()
