"""Skip the tests of the node where its packages are not installed."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("pynetdicom") else ["test_*.py"]
