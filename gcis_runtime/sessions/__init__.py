"""Inference engines: one small class each behind the `Session` protocol, imported when opened."""

from gcis_runtime.sessions.base import DeviceSession, Session
from gcis_runtime.sessions.factory import ENGINES, PRECISIONS, open_session

__all__ = ["ENGINES", "PRECISIONS", "DeviceSession", "Session", "open_session"]
