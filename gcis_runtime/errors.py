"""Define the exceptions of gCIS; each states what was received, what was expected, and what to do."""

from __future__ import annotations


class GcisError(Exception):
    """Base class of errors that the user can correct.

    Args:
        message: The problem, in one sentence without a full stop.
        received: The received value; None if the message needs none.
        expected: The expected value; None if the message needs none.
        fix: An instruction that corrects the error.
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
    """An image cannot be read or used."""

    def named(self, path: object) -> ImageError:
        """Return the same error with the file's name in front."""
        return ImageError(
            f"{path}: {self.message}", received=self.received, expected=self.expected, fix=self.fix
        )


class BundleError(GcisError):
    """A bundle is missing or damaged, has a different schema, or lacks a requested part."""


class EngineError(GcisError):
    """An inference engine or device is not available, or has failed."""


class UnusableEngineError(EngineError):
    """An engine is installed but does not work on this machine; another engine may."""


class DeviceMemoryError(EngineError):
    """A device has too little memory; a smaller window batch or another device may be sufficient."""


class MemoryLimitError(GcisError):
    """An image needs more memory than the user allows."""


class OutputError(GcisError):
    """An output cannot be written."""


class UnwritableError(OutputError):
    """The system refuses to write an output: the disk is full, or this user has no permission."""


class CheckpointError(GcisError):
    """A checkpoint or a foreign weights file cannot be used."""


class DataError(GcisError):
    """A datalist, one of its rows, or a label cannot be used."""


class PromptError(GcisError):
    """A prompt is unknown or invalid."""


class AmbiguousPromptError(PromptError):
    """A prompt that several known structures match."""


class ParityError(GcisError):
    """The logits of a graph differ from those of the network from which it was exported."""


class ProcessError(GcisError):
    """A process of a distributed training has ended or does not respond."""


class ClusterError(GcisError):
    """A cluster cannot be reached or used, or has lost all its workers."""
