"""Write the module map of docs/architecture.md: a table and a picture generated from the imports.

    python -m scripts.architecture           rewrite docs/architecture.md and docs/modules.svg
    python -m scripts.architecture --check   exit with code 1 if they differ from the imports

A *subpackage* is a package or a module directly below a root package. Layers are read from the import-linter
contracts in pyproject.toml; the imports are read by grimp, which import-linter installs.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

from scripts.module_picture import Panel, picture

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "modules.svg"
COLORS = {"gcis_export": "#ecfdf5", "gcis_train": "#eef2ff", "gcis_runtime": "#fff7ed"}
BEGIN, END = "<!-- module-map -->", "<!-- /module-map -->"


@dataclass(frozen=True, kw_only=True)
class Subpackage:
    """A package or module directly below a root package.

    Attributes:
        name: Dotted name, such as `gcis_runtime.grids`.
        purpose: First sentence of its docstring.
        modules: Number of Python files.
        imports: Dotted names of the subpackages that it imports.
    """

    name: str
    purpose: str
    modules: int
    imports: frozenset[str]

    @property
    def package(self) -> str:
        """Return the name of the root package."""
        return self.name.partition(".")[0]

    @property
    def label(self) -> str:
        """Return the name without the root package."""
        return self.name.partition(".")[2] or self.name


def import_graph() -> grimp.ImportGraph:
    """Return the imports between all modules of the project."""
    return grimp.build_graph(*COLORS, "benchmarks", cache_dir=None)


def subpackage_of(module: str) -> str | None:
    """Return the subpackage of a module, or None for files that only start or re-export a package."""
    package, _, rest = module.partition(".")
    if package == "benchmarks":
        return package
    return f"{package}.{rest.partition('.')[0]}" if rest and rest != "__main__" else None


def subpackages_of(graph: grimp.ImportGraph) -> dict[str, Subpackage]:
    """Return the subpackages of a graph by dotted name, in alphabetical order."""
    modules: dict[str, int] = {}
    imports: dict[str, set[str]] = {}
    for module in graph.modules:
        subpackage = subpackage_of(module)
        if subpackage is None:
            continue
        modules[subpackage] = modules.get(subpackage, 0) + 1
        targets = (subpackage_of(target) for target in graph.find_modules_directly_imported_by(module))
        imports.setdefault(subpackage, set()).update(
            name for name in targets if name not in (None, subpackage)
        )
    return {
        name: Subpackage(
            name=name, purpose=purpose(name), modules=modules[name], imports=frozenset(imports[name])
        )
        for name in sorted(modules)
    }


def purpose(name: str) -> str:
    """Return the first sentence of a subpackage's docstring, in one line."""
    path = ROOT.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    return first.partition(". ")[0].rstrip(".") + "."


def layers_of(package: str) -> list[list[str]]:
    """Return the layers of a package, highest first, from its import-linter contract."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(c for c in settings["contracts"] if c.get("containers") == [package])
    return [[part.strip() for part in line.split("|")] for line in contract["layers"]]


def direct(subpackages: Mapping[str, Subpackage], package: str) -> list[tuple[str, str]]:
    """Return the imports within a package that do not follow from a chain of other imports."""
    edges = {
        name: {
            target
            for target in subpackage.imports
            if target in subpackages and subpackages[target].package == package
        }
        for name, subpackage in subpackages.items()
        if subpackage.package == package
    }

    def below(name: str) -> set[str]:
        return set().union(*({target} | below(target) for target in edges[name]))

    return sorted(
        (name, target)
        for name, targets in edges.items()
        for target in targets
        if not any(target in below(other) for other in targets - {target})
    )


def table(subpackages: Mapping[str, Subpackage]) -> str:
    """Return the Markdown tables of all subpackages, one per package."""
    parts = []
    for package in ("gcis_runtime", "gcis_train", "gcis_export"):
        lines = [f"### {package}", "", "| subpackage | purpose | modules | imports |", "|---|---|---|---|"]
        names = [f"{package}.{name}" for layer in layers_of(package) for name in layer]
        lines += [row(subpackages[name]) for name in names if name in subpackages]
        parts.append("\n".join(lines))
    bench = subpackages["benchmarks"]
    parts.append(f"### benchmarks\n\n{bench.purpose} {bench.modules} modules; imports {imported(bench)}.")
    return "\n\n".join(parts)


def row(subpackage: Subpackage) -> str:
    """Return the table row of a subpackage."""
    return f"| `{subpackage.label}` | {subpackage.purpose} | {subpackage.modules} | {imported(subpackage)} |"


def imported(subpackage: Subpackage) -> str:
    """Return the subpackages that a subpackage imports: its own package first, the others by package."""
    groups: dict[str, list[str]] = {}
    for name in sorted(subpackage.imports):
        groups.setdefault(name.partition(".")[0], []).append(name.partition(".")[2])
    own = groups.pop(subpackage.package, [])
    others = [f"{package}: {', '.join(names)}" for package, names in groups.items()]
    return "; ".join([", ".join(own), *others] if own else others) or "nothing"


def panels(subpackages: Mapping[str, Subpackage]) -> dict[str, Panel]:
    """Return the packages as they are drawn."""
    found = {"benchmarks": Panel(name="benchmarks", color="#f1f5f9", layers=(), edges=(), notes={})}
    for package, color in COLORS.items():
        layers = [[f"{package}.{name}" for name in layer] for layer in layers_of(package)]
        found[package] = Panel(
            name=package,
            color=color,
            layers=[[name for name in layer if name in subpackages] for layer in layers],
            edges=direct(subpackages, package),
            notes={name: subpackage.purpose for name, subpackage in subpackages.items()},
        )
    return found


def page(text: str, subpackages: Mapping[str, Subpackage]) -> str:
    """Return the page with its generated part replaced.

    Raises:
        ValueError: The page lacks one of the two markers.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"received a page without {BEGIN} and {END}; expected both; add the two lines")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(subpackages)}\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str]) -> int:
    """Write or check the two files and return the exit code."""
    subpackages = subpackages_of(import_graph())
    wanted = {PAGE: page(PAGE.read_text(), subpackages), PICTURE: picture(panels(subpackages))}
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text() != text]
    if "--check" not in arguments:
        for file in stale:
            file.write_text(wanted[file])
    for file in stale:
        verb = "is out of date" if "--check" in arguments else "written"
        sys.stdout.write(f"{file.relative_to(ROOT)}: {verb}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
