"""The bundle store: where exported bundles are installed, and which one a command means."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.bundles.bundle import read_manifest, select_labels, unknown_prompt
from gcis_runtime.bundles.manifest import MANIFEST_FILE, Manifest
from gcis_runtime.errors import BundleError, PromptError
from gcis_runtime.system.home import home_folder

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "headneck.gcis"
SUFFIX = ".gcis"


@dataclass(frozen=True, kw_only=True)
class StoredBundle:
    """An installed bundle by its manifest; its files are verified when it is opened.

    Attributes:
        slug: Name of its folder without `.gcis`; `"demo"` for the shipped one.
        folder: Where it lies.
        manifest: What it says; None when it cannot be read.
        problem: Why it cannot be read.
    """

    slug: str
    folder: Path
    manifest: Manifest | None
    problem: str | None = None


def store_folder() -> Path:
    """Return the folder of installed bundles: `$GCIS_HOME/bundles`, by default `~/.gcis/bundles`."""
    return home_folder() / "bundles"


def slugify(name: str) -> str:
    """Turn a bundle's name into a folder name: lower case, digits and hyphens.

    Raises:
        BundleError: Nothing is left.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise BundleError(
            "the bundle's name has no letter or digit", received=repr(name), fix="Give another name."
        )
    return slug


def list_bundles(*, with_demo: bool = False) -> list[StoredBundle]:
    """Return the installed bundles by slug; unreadable ones too, with their problem."""
    store = store_folder()
    found = sorted(p for p in store.iterdir() if (p / MANIFEST_FILE).is_file()) if store.is_dir() else []
    # Half-written exports have names that begin with a dot.
    bundles = [_stored(p.name.removesuffix(SUFFIX), p) for p in found if not p.name.startswith(".")]
    if with_demo and (DEMO_FOLDER / MANIFEST_FILE).is_file():
        bundles.insert(0, _stored(DEMO, DEMO_FOLDER))
    return bundles


def find_bundle(bundle: str | os.PathLike[str] | None, prompts: Sequence[str] = ()) -> Path:
    """Return the folder of the bundle that is meant.

    Args:
        bundle: A folder, the name of an installed bundle, `"demo"`, or None to choose by prompts.
        prompts: Without `bundle`: the one installed bundle that has them all; none named: the only one.

    Raises:
        BundleError: None or several fit; lists the choices.
        PromptError: No installed bundle has one of the prompts.
    """
    if bundle is not None:
        return _named(bundle)
    installed = [entry for entry in list_bundles() if entry.manifest is not None]
    if not installed:
        raise BundleError(
            "no bundle is installed",
            received=f"an empty store {store_folder()}",
            fix="Export one with gcis-export, give a folder with --bundle, or try --bundle demo.",
        )
    fitting = [entry for entry in installed if entry.manifest and _has(entry.manifest, prompts)]
    if len(fitting) == 1:
        return fitting[0].folder
    if not fitting:
        labels = [label for entry in installed if entry.manifest for label in entry.manifest.labels]
        missing = [
            p for p in prompts if not any(entry.manifest and _has(entry.manifest, [p]) for entry in installed)
        ]
        if missing:
            raise unknown_prompt(missing[0], labels, where="the bundle store")
        raise PromptError(
            "no installed bundle has all these prompts",
            received=", ".join(map(repr, prompts)),
            fix="Export one bundle with them all, or run gcis-run once for each.",
        )
    raise BundleError(
        "several installed bundles fit",
        received=", ".join(_describe(entry) for entry in fitting),
        expected="one",
        fix="Choose with --bundle NAME.",
    )


def _named(bundle: object) -> Path:
    """Return the folder that a path or name means; a path wins, since names have no slash."""
    if not isinstance(bundle, str | os.PathLike):
        raise BundleError(
            "this names no bundle", received=type(bundle).__name__, expected="a folder, a name, or 'demo'"
        )
    path, name = Path(bundle), str(bundle)
    if (path / MANIFEST_FILE).is_file():
        return path
    if name == DEMO:
        if not (DEMO_FOLDER / MANIFEST_FILE).is_file():
            raise BundleError(
                "this installation ships no demo bundle", fix="Install gcis from its repository."
            )
        return DEMO_FOLDER
    for entry in list_bundles():
        if name in (entry.slug, entry.folder.name) or (entry.manifest and name == entry.manifest.name):
            return entry.folder
    if path.exists():
        return path  # opening it says what is wrong with it
    choices = [_describe(entry) for entry in list_bundles(with_demo=True)]
    raise BundleError(
        f"there is no bundle {name!r}",
        expected=f"a bundle folder or one of {', '.join(choices)}" if choices else "a bundle folder",
        fix="`gcis-bundle list` shows the installed ones.",
    )


def _stored(slug: str, folder: Path) -> StoredBundle:
    """Read a folder's manifest, keeping its problem instead of raising."""
    try:
        return StoredBundle(slug=slug, folder=folder, manifest=read_manifest(folder)[0])
    except BundleError as error:
        return StoredBundle(slug=slug, folder=folder, manifest=None, problem=str(error))


def _has(manifest: Manifest, prompts: Sequence[str]) -> bool:
    """Tell whether a manifest has all prompts."""
    try:
        select_labels(manifest, prompts)
    except PromptError:
        return False
    return True


def _describe(entry: StoredBundle) -> str:
    """Return slug and prompts for a message."""
    prompts = ", ".join(label.prompt for label in entry.manifest.labels) if entry.manifest else "unreadable"
    return f"{entry.slug} ({prompts})"
