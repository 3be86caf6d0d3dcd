"""The one exception family of gCIS: what was received, what was expected, what to do."""

from __future__ import annotations


class GcisError(Exception):
    """An error that a user can mend.

    Args:
        message: What went wrong, in one sentence without a full stop.
        received: What was given, if that helps.
        expected: What would have been right, if that helps.
        fix: What to do about it, as an instruction.
    """

    def __init__(
        self,
        message: str,
        *,
        received: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.received = received
        self.expected = expected
        self.fix = fix
        parts = [message]
        if received is not None:
            parts.append(f"received {received}")
        if expected is not None:
            parts.append(f"expected {expected}")
        line = "; ".join(parts)
        super().__init__(f"{line}. {fix}" if fix else line)


class ImageError(GcisError):
    """An image that cannot be read or used."""

    def named(self, path: object) -> ImageError:
        """Return the same error with the file's name in front."""
        return ImageError(
            f"{path}: {self.message}", received=self.received, expected=self.expected, fix=self.fix
        )


class BundleError(GcisError):
    """A bundle that is missing, damaged, of another schema, or not what was asked for."""


class EngineError(GcisError):
    """An inference engine or device that cannot be had."""


class DeviceMemoryError(EngineError):
    """A device without enough memory: a smaller window batch or another device may do."""


class MemoryLimitError(GcisError):
    """An image that would take more memory than the user allows."""


class OutputError(GcisError):
    """An output that cannot be written."""


class CheckpointError(GcisError):
    """A checkpoint or foreign weights file that cannot be used."""


class DataError(GcisError):
    """A datalist, a row of one, or a label that cannot be used."""


class PromptError(GcisError):
    """A prompt that is unknown or invalid."""


class AmbiguousPromptError(PromptError):
    """A prompt that several known structures match."""


class ParityError(GcisError):
    """A graph whose answers differ from the network it was made from."""


class ProcessError(GcisError):
    """A process of a training that is gone or does not answer."""
