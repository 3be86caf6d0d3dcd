"""Find bundles in the bundle store, the folder of installed bundles, by name, prompt or path."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.bundles.bundle import read_manifest, select_labels, unknown_prompt
from gcis_runtime.bundles.manifest import MANIFEST_FILE, Manifest
from gcis_runtime.errors import AmbiguousPromptError, BundleError, PromptError
from gcis_runtime.system.home import home_folder

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "headneck.gcis"
SUFFIX = ".gcis"


@dataclass(frozen=True, kw_only=True)
class StoredBundle:
    """An installed bundle; its files are verified when it is opened.

    Attributes:
        slug: Name of its folder without `.gcis`; `"demo"` for the shipped bundle.
        folder: Folder of the bundle.
        manifest: The decoded manifest; None if it cannot be read.
        problem: Reason why the manifest cannot be read; None if it was read.
    """

    slug: str
    folder: Path
    manifest: Manifest | None
    problem: str | None = None


def store_folder() -> Path:
    """Return the folder of installed bundles: `$GCIS_HOME/bundles`, by default `~/.gcis/bundles`."""
    return home_folder() / "bundles"


def slugify(name: str) -> str:
    """Convert the name of a bundle to a folder name of lower-case letters, digits and hyphens.

    Raises:
        BundleError: The name contains no letter or digit.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise BundleError(
            "the bundle's name has no letter or digit",
            received=repr(name),
            expected="a name with at least one of a to z or 0 to 9",
            fix="Choose another name.",
        )
    return slug


def list_bundles(*, with_demo: bool = False) -> list[StoredBundle]:
    """Return the installed bundles sorted by slug, including unreadable ones with their problem."""
    store = store_folder()
    found = sorted(p for p in store.iterdir() if (p / MANIFEST_FILE).is_file()) if store.is_dir() else []
    # Unfinished exports have names that begin with a dot.
    bundles = [_stored(p.name.removesuffix(SUFFIX), p) for p in found if not p.name.startswith(".")]
    if with_demo and (DEMO_FOLDER / MANIFEST_FILE).is_file():
        bundles.insert(0, _stored(DEMO, DEMO_FOLDER))
    return bundles


def find_bundle(bundle: str | os.PathLike[str] | None, prompts: Sequence[str] = ()) -> Path:
    """Return the folder of a bundle that is given by path, name or prompts.

    Args:
        bundle: A folder, the name of an installed bundle, `"demo"`, or None to choose by prompts.
        prompts: If `bundle` is None, choose the installed bundle that has all these prompts. Without prompts,
            choose the only installed bundle.

    Raises:
        BundleError: No bundle or several bundles match; the message lists the choices.
        PromptError: No installed bundle has all prompts.
    """
    if bundle is not None:
        return _named(bundle)
    installed = [entry for entry in list_bundles() if entry.manifest is not None]
    if not installed:
        raise BundleError(
            "no bundle is installed",
            received=f"an empty store {store_folder()}",
            expected="at least one bundle",
            fix="Export a bundle with gcis-export, pass a folder with --bundle, or try --bundle demo.",
        )
    fitting = [entry for entry in installed if entry.manifest and _has(entry.manifest, prompts)]
    if len(fitting) == 1:
        return fitting[0].folder
    if not fitting:
        labels = [label for entry in installed if entry.manifest for label in entry.manifest.labels]
        for entry in installed:
            if entry.manifest is not None:
                _check_ambiguous(entry.manifest, prompts)
        missing = [
            p for p in prompts if not any(entry.manifest and _has(entry.manifest, [p]) for entry in installed)
        ]
        if missing:
            raise unknown_prompt(missing[0], labels, where="the bundle store")
        raise PromptError(
            "no installed bundle has all these prompts",
            received=", ".join(map(repr, prompts)),
            expected="prompts of one installed bundle",
            fix="Export a bundle with all these prompts, or run gcis-run once per bundle.",
        )
    raise BundleError(
        "several installed bundles match",
        received=", ".join(_describe(entry) for entry in fitting),
        expected="one",
        fix="Choose one of them with --bundle NAME.",
    )


def _named(bundle: object) -> Path:
    """Return the folder of a path or name; an existing path takes precedence over a name."""
    if not isinstance(bundle, str | os.PathLike):
        raise BundleError(
            "the bundle is not a path or a name",
            received=type(bundle).__name__,
            expected="a folder, a name, or 'demo'",
            fix="Pass a str or a Path.",
        )
    path, name = Path(bundle), str(bundle)
    if (path / MANIFEST_FILE).is_file():
        return path
    if name == DEMO:
        if not (DEMO_FOLDER / MANIFEST_FILE).is_file():
            raise BundleError(
                "this installation has no demo bundle",
                received=f"no {DEMO_FOLDER / MANIFEST_FILE}",
                expected="the bundle that the gcis wheel contains",
                fix="Install gcis again.",
            )
        return DEMO_FOLDER
    for entry in list_bundles():
        if name in (entry.slug, entry.folder.name) or (entry.manifest and name == entry.manifest.name):
            return entry.folder
    if path.exists():
        return path  # opening the bundle raises an error with the reason
    choices = [_describe(entry) for entry in list_bundles(with_demo=True)]
    raise BundleError(
        f"there is no bundle {name!r}",
        expected=f"a bundle folder or one of {', '.join(choices)}" if choices else "a bundle folder",
        fix="`gcis-bundle list` shows the installed ones.",
    )


def _stored(slug: str, folder: Path) -> StoredBundle:
    """Read the manifest of a folder; store an error as `problem` instead of raising it."""
    try:
        return StoredBundle(slug=slug, folder=folder, manifest=read_manifest(folder)[0])
    except BundleError as error:
        return StoredBundle(slug=slug, folder=folder, manifest=None, problem=str(error))


def _has(manifest: Manifest, prompts: Sequence[str]) -> bool:
    """Return whether a manifest has all prompts."""
    try:
        select_labels(manifest, prompts)
    except PromptError:
        return False
    return True


def _check_ambiguous(manifest: Manifest, prompts: Sequence[str]) -> None:
    """Raise if several structures of a bundle match a prompt; the message lists them."""
    for prompt in prompts:
        try:
            select_labels(manifest, [prompt])
        except AmbiguousPromptError:
            raise
        except PromptError:
            continue


def _describe(entry: StoredBundle) -> str:
    """Return slug and prompts of a bundle as text for a message."""
    prompts = ", ".join(label.prompt for label in entry.manifest.labels) if entry.manifest else "unreadable"
    return f"{entry.slug} ({prompts})"
