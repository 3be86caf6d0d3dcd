"""Describe the bundles of a service for clients."""

from __future__ import annotations

import msgspec

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.serve.engines import Engines


class BundleView(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle of the service.

    Attributes:
        name: Its name.
        sha256: Hash of its manifest, which identifies the whole bundle.
        crop: Whether it has a foreground rule.
        labels: Its structures.
        engine: The engine that computes; None while it is opened.
        tf32: Whether products of float32 may round their factors.
        notice: The notice about its use.
    """

    name: str
    sha256: str
    crop: bool
    labels: list[Label]
    engine: EngineInfo | None
    tf32: bool
    notice: str


def bundle_views(engines: Engines) -> list[BundleView]:
    """Return all bundles of a service."""
    return [
        BundleView(
            name=bundle.name,
            sha256=bundle.sha256,
            crop=bundle.manifest.preprocess.crop is not None,
            labels=list(bundle.manifest.labels),
            engine=engines.info(bundle.name),
            tf32=engines.tf32(),
            notice=bundle.manifest.notice,
        )
        for bundle in engines.bundles.values()
    ]
