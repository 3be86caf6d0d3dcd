"""Describe the bundles of a service for clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from gcis_runtime.bundles.bundle import Bundle, alias_notes, select_labels
from gcis_runtime.bundles.manifest import Label
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.pipeline.identity import BundleIdentity
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
        notes: Structures that were selected by an alias.
    """

    name: str
    sha256: str
    crop: bool
    labels: list[Label]
    engine: EngineInfo | None
    tf32: bool
    notice: str
    notes: list[str] = []


def bundle_views(engines: Engines) -> list[BundleView]:
    """Return all bundles of a service."""
    return [bundle_view(engines, bundle) for bundle in engines.bundles.values()]


def bundle_view(engines: Engines, bundle: Bundle, prompts: Sequence[str] = ()) -> BundleView:
    """Return a bundle of a service with the structures that prompts select.

    Raises:
        PromptError: The bundle does not have a prompt.
    """
    manifest = bundle.manifest
    return BundleView(
        **asdict(BundleIdentity.of(bundle)),
        labels=[manifest.labels[channel] for channel in select_labels(manifest, prompts)],
        engine=engines.info(bundle.name),
        tf32=engines.tf32(),
        notice=manifest.notice,
        notes=list(alias_notes(manifest, prompts)),
    )
