"""Locate the folder in which gCIS keeps data for the current user."""

from __future__ import annotations

import os
from pathlib import Path


def home_folder() -> Path:
    """Return the folder of this user's bundles and caches: `$GCIS_HOME`, by default `~/.gcis`."""
    home = os.environ.get("GCIS_HOME")
    return Path(home) if home else Path.home() / ".gcis"
