"""Identify what computes: bundles, structures and engine that results depend on, without an open engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Label
from gcis_runtime.engines.info import EngineInfo


@dataclass(frozen=True, kw_only=True)
class BundleIdentity:
    """What results depend on in a bundle.

    Attributes:
        name: Name of the bundle.
        sha256: Hash of its manifest, which identifies the whole bundle.
        crop: Whether the bundle has a foreground rule.
    """

    name: str
    sha256: str
    crop: bool

    @classmethod
    def of(cls, bundle: Bundle) -> BundleIdentity:
        """Return the identity of a bundle."""
        return cls(name=bundle.name, sha256=bundle.sha256, crop=bundle.manifest.preprocess.crop is not None)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A bundle in an engine. It can be sent to other processes, and equal identities give equal results.

    Attributes:
        bundle: The bundle.
        labels: Structures that are segmented.
        engine: The engine.
        tf32: Whether products of float32 may round their factors.
        coarse: The bundle of the coarse pass; None without another bundle.
    """

    bundle: BundleIdentity
    labels: tuple[Label, ...]
    engine: EngineInfo
    tf32: bool = False
    coarse: BundleIdentity | None = None

    @classmethod
    def of(cls, bundle: Bundle, channels: Sequence[int], *, engine: EngineInfo, tf32: bool) -> Identity:
        """Return the identity of a bundle in an engine.

        Args:
            bundle: The bundle.
            channels: Graph channels of the structures that are segmented.
            engine: The engine.
            tf32: Whether products of float32 may round their factors.
        """
        labels = tuple(bundle.manifest.labels[channel] for channel in channels)
        return cls(bundle=BundleIdentity.of(bundle), labels=labels, engine=engine, tf32=tf32)
