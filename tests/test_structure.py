"""Test the structure of the source tree: sizes, folders, module docstrings, imports, and the wheel."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools.discovery import PackageFinder

ROOT = Path(__file__).parents[1]
PACKAGES = ("gcis_runtime", "gcis_train", "gcis_export")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 300, 60, 20


def library() -> list[Path]:
    """Return the modules that the wheel contains."""
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def sources() -> list[Path]:
    """Return the library's modules and those of the benchmarks."""
    return [*library(), *sorted((ROOT / "benchmarks").rglob("*.py"))]


def long_file(source: str) -> Iterator[str]:
    """Report a file with more than 300 lines."""
    if (count := len(source.splitlines())) > MAX_FILE_LINES:
        yield f"{count} lines, at most {MAX_FILE_LINES} are allowed"


def long_functions(source: str) -> Iterator[str]:
    """Report functions with more than 60 lines; decorators do not count."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > MAX_FUNCTION_LINES:
                yield f"{node.name}: {count} lines, at most {MAX_FUNCTION_LINES} are allowed"


def missing_docstring(source: str) -> Iterator[str]:
    """Report a module that does not start with a docstring."""
    if not ast.get_docstring(ast.parse(source)):
        yield "no module docstring"


def forbidden_statements(source: str) -> Iterator[str]:
    """Report `print`, `assert` and `global`, which library code must not contain."""
    for node in ast.walk(ast.parse(source)):
        printed = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if printed or isinstance(node, ast.Assert | ast.Global):
            name = "print" if printed else type(node).__name__.lower()
            yield f"line {node.lineno}: {name}"


def unsafe_interpreters(source: str) -> Iterator[str]:
    """Report interpreters that are started without `-P`: they import from the working directory."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
            following = ast.unparse(node.elts[1]) if len(node.elts) > 1 else ""
            if following not in ("'-P'", "*arguments"):
                yield f"line {node.lineno}: sys.executable without -P"


def crowded_folders(modules: list[Path]) -> Iterator[str]:
    """Report folders with more than 20 modules; `__init__.py` does not count."""
    folders = [path.parent for path in modules if path.name != "__init__.py"]
    for folder in sorted(set(folders)):
        if (count := folders.count(folder)) > MAX_MODULES:
            yield f"{folder}: {count} modules, at most {MAX_MODULES} are allowed"


LAW_OF_FILE = {
    "long file": (long_file, sources(), "x = 1\n" * 301),
    "long function": (long_functions, sources(), "def f():\n" + "    x = 1\n" * 60),
    "no docstring": (missing_docstring, sources(), "x = 1\n"),
    "print": (forbidden_statements, library(), "print(1)\n"),
    "assert": (forbidden_statements, library(), "def f(x):\n    assert x\n"),
    "interpreter": (unsafe_interpreters, library(), "run([sys.executable, '-m', 'x'])\n"),
    "global": (forbidden_statements, library(), "def f():\n    global x\n    x = 1\n"),
}
"""Check of a file, the files that it applies to, and a source that breaks it."""


@pytest.mark.parametrize("law", LAW_OF_FILE)
def test_every_file_keeps_the_law(law: str) -> None:
    check, files, broken = LAW_OF_FILE[law]
    assert list(check(broken)), "the check sees a source that breaks the law"
    assert len(files) > 100
    found = [f"{path.relative_to(ROOT)}: {text}" for path in files for text in check(path.read_text())]
    assert not found, "\n".join(found)


def test_a_source_within_the_limits_is_accepted() -> None:
    source = '"""Do nothing."""\n\n\ndef f():\n' + "    x = 1\n" * 59 + "x = 1\n" * 236
    assert len(source.splitlines()) == MAX_FILE_LINES - 1
    assert [text for check, _, _ in LAW_OF_FILE.values() for text in check(source)] == []


def test_no_folder_holds_more_than_20_modules() -> None:
    files = [Path("a") / f"m{i}.py" for i in range(21)]
    assert list(crowded_folders(files)) == ["a: 21 modules, at most 20 are allowed"]
    assert list(crowded_folders([*files[1:], Path("a/__init__.py")])) == []
    assert list(crowded_folders([path.relative_to(ROOT) for path in sources()])) == []


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of `pyproject.toml` in a folder against the packages there."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_down_and_no_two_files_import_each_other() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    checked = {name for c in config["contracts"] if c["type"] == "layers" for name in c.get("containers", ())}
    assert checked == set(PACKAGES)
    (acyclic,) = (c for c in config["contracts"] if c["type"] == "acyclic_siblings")
    assert acyclic["ancestors"] == [*PACKAGES, "benchmarks"] == config["root_packages"]
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


LAYERS = 'type = "layers"\nlayers = ["high", "low"]\ncontainers = ["house"]'
ACYCLIC = 'type = "acyclic_siblings"\nancestors = ["house"]'


@pytest.mark.parametrize(
    ("contract", "reason"),
    [
        (
            'type = "layers"\nlayers = ["high", "low"]\ncontainers = ["house"]',
            "house.low is not allowed to import house.high",
        ),
        ('type = "acyclic_siblings"\nancestors = ["house"]', "No cycles are allowed"),
    ],
)
def test_the_contracts_see_upward_imports_and_cycles(tmp_path: Path, contract: str, reason: str) -> None:
    house = tmp_path / "house"
    for name, other in (("high", "low"), ("low", "high")):
        (house / name).mkdir(parents=True)
        (house / name / "__init__.py").touch()
        (house / name / "module.py").write_text(f"def f():\n    import house.{other}.module\n")
    (house / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["house"]\n'
        f'[[tool.importlinter.contracts]]\nname = "c"\n{contract}\n'
    )
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and "1 broken" in done.stdout and reason in done.stdout, done.stdout


def top_level(include: list[str]) -> set[str]:
    """Return the top-level packages that setuptools finds in the checkout."""
    return {name.partition(".")[0] for name in PackageFinder.find(where=str(ROOT), include=include)}


def test_the_wheel_contains_the_three_packages_only() -> None:
    """Compare the packages that setuptools finds; a wheel is built in `tests/runtime/test_lean.py`."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert top_level(tool["packages"]["find"]["include"]) == set(PACKAGES)
    assert {"benchmarks", "tests"} <= top_level(["*"])
    for package, patterns in tool["package-data"].items():
        assert [pattern for pattern in patterns if not list((ROOT / package).glob(pattern))] == []
    assert not list((ROOT / "gcis_runtime").glob("cuda/*.cu")), "a pattern without files is seen"
