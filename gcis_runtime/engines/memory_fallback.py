"""Choose the engine options to try next: a smaller batch, another engine or device.

This happens after memory ran out, and with engine `"auto"` for an engine that is installed but does not work.

`MemoryFallback` only decides; `pipeline.loaded_engine` opens and closes the sessions. An engine that the user
selected by name is kept, and only its window batch is halved
(`docs/decisions/0043-forecast-and-fall-back.md`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.choices import EngineName
from gcis_runtime.engines.factory import automatic_engines
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import DeviceMemoryError, EngineError

OUT_OF_MEMORY = (DeviceMemoryError, MemoryError)
"""Errors after which a smaller configuration may succeed."""


class MemoryFallback:
    """State of the fallback: current engine options, options to try next, and a log of the steps taken.

    A smaller batch needs less memory. Another engine may need less, and another device has its own memory.

    Args:
        bundle: The bundle.
        options: The options that the user selected. Engine `"auto"` permits other engines, and the CPU after
            a GPU.

    Attributes:
        requested: The options that the user selected.
        current: The options to use now.
        steps: One line per step: what failed, why, and what was used instead.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self._bundle = bundle
        self.requested = self.current = options
        self.steps: list[str] = []
        self._unusable = self._measured = False

    @property
    def _name(self) -> str:
        """Name of the current engine, also if `"auto"` has not opened it yet."""
        if self.current.engine != "auto":
            return self.current.engine
        return automatic_engines(self._bundle, self.current.device)[0]

    def opened(self, session: Session) -> None:
        """Record the engine, device and window batch of the session that the current options opened."""
        name = cast(EngineName, session.name)
        self._measured = bool(getattr(session, "measured", ""))
        self.current = replace(self.current, engine=name, device=session.device, batch=session.batch)

    @property
    def can_step(self) -> bool:
        """Whether there are options to try after the current ones."""
        return next(self._following(), None) is not None

    def step(self, reason: str) -> None:
        """Move to the next options after memory ran out, and log the step.

        Args:
            reason: The engine's or system's message in one line.
        """
        following = next(self._following())
        plain = " and the plain settings" if self._measured else ""
        self.steps.append(
            f"out of memory with {self.current.text} ({reason}): continuing with {following.text}{plain}"
        )
        self.current, self._measured = following, False

    def skip(self, reason: str) -> None:
        """Move to the next options because the engine of the current ones cannot be opened."""
        self.steps.append(f"{self.current.text} cannot be opened: {reason}")
        self.current = next(self._following())

    @property
    def has_other_engine(self) -> bool:
        """Whether there is a replacement for an engine that does not work.

        After settings that a trial chose, these are the plain settings of the same engine. Otherwise `"auto"`
        may select another engine, on the same device or then on the CPU.
        """
        return self._measured or next(self._others(), None) is not None

    def replace_engine(self, reason: str) -> None:
        """Move to the plain settings or the next engine because the current one does not work here.

        Args:
            reason: The engine's error in one line.
        """
        if self._measured:
            self.steps.append(
                f"the settings of the trial do not work here: {reason}: continuing with the plain settings; "
                "`gcis-bundle verify BUNDLE --device cuda --trial` repeats the trial"
            )
            self.current, self._measured = next(self._plain()), False
            return
        self._unusable = True
        self.steps.append(f"{self._name} does not work here: {reason}")
        self.current = next(self._others())

    def exhausted(self, reason: str) -> EngineError:
        """Return the error for a volume that no options fit, and start again from the requested options."""
        if self._unusable:
            tried = "; ".join(self.steps)
            last, self.current, self.steps, self._unusable = self._name, self.requested, [], False
            return EngineError(
                "no engine can run this bundle on this machine",
                received=f"{tried}; {last}: {reason}",
                fix="`gcis-bundle doctor` lists the engines and why they cannot run.",
            )
        fix = "Use a machine with more memory, or a bundle with a smaller window."
        if self.requested.engine != "auto":
            fix = "Without --engine, other engines and then the CPU are tried. " + fix
        tried = f"; before that: {'; '.join(self.steps)}" if self.steps else ""
        failed, self.current, self.steps = self.current, self.requested, []
        return DeviceMemoryError(
            f"out of memory with {failed.text}, and no other configuration is left",
            received=f"{reason}{tried}",
            fix=fix,
        )

    def _following(self) -> Iterator[EngineOptions]:
        """Yield the options that come after the current ones, best first."""
        yield from self._plain()
        now, requested = self.current, self.requested
        batch = now.batch or (1 if now.device == "cpu" else _most_windows(self._bundle))
        if batch > 1:
            yield replace(now, batch=batch // 2)
            return
        if requested.engine == "auto":
            yield from self._others()

    def _plain(self) -> Iterator[EngineOptions]:
        """Yield options without the settings that a trial chose, if the session used them."""
        if self._measured:
            yield replace(self.current, measured_settings=False)

    def _others(self) -> Iterator[EngineOptions]:
        """Yield options with the engines after the current one: on its device, then on the CPU."""
        for device in dict.fromkeys((self.current.device, "cpu")):
            yield from self._engines(device)

    def _engines(self, device: str) -> Iterator[EngineOptions]:
        """Yield options with the engines of `"auto"` on a device, after the current one on its own device."""
        now, requested = self.current, self.requested
        if requested.engine != "auto":
            return
        names = automatic_engines(self._bundle, device)
        if device == now.device:
            used = now.engine
            names = names[names.index(used) + 1 :] if used != "auto" and used in names else names[1:]
        for name in names:
            tf32 = requested.tf32 and name == "onnx" and device != "cpu"
            yield replace(requested, engine=name, device=device, batch=1, tf32=tf32)


def _most_windows(bundle: Bundle) -> int:
    return max(graph.batch for graph in bundle.manifest.graphs)
