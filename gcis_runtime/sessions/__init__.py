"""Inference engines: one small class each behind the `Session` protocol, imported when opened."""

from gcis_runtime.sessions.base import Session
from gcis_runtime.sessions.factory import ENGINES, PRECISIONS, open_session

__all__ = ["ENGINES", "PRECISIONS", "Session", "open_session"]
