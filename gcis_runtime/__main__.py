"""Run `gcis-run` as `python -m gcis_runtime`."""

from __future__ import annotations

from gcis_runtime.cli.run import main

if __name__ == "__main__":
    main()
