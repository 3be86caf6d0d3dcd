"""Test how commands report errors."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from gcis_runtime.system.console import command, command_group


def test_a_missing_package_is_an_error_that_names_the_extras():
    @command_group("gcis-test", extras="train")
    def main() -> None:
        """Group."""

    @main.command()
    def start() -> None:
        import package_that_no_environment_has  # noqa: F401

    result = CliRunner().invoke(main, ["start"])
    assert result.exit_code == 2
    assert result.stderr == (
        "gcis-test: error: a package is missing; received an environment without "
        'package_that_no_environment_has; expected the extras train. Run pip install "gcis[train]".\n'
    )


@pytest.mark.parametrize(("extras", "name"), [(None, "absent_package"), ("train", "gcis_runtime.absent")])
def test_a_missing_module_that_no_extra_provides_is_not_hidden(*, extras, name):
    @command("gcis-test", extras=extras)
    def main() -> None:
        raise ModuleNotFoundError(name=name)

    assert isinstance(main, click.Command)
    result = CliRunner().invoke(main, [])
    assert isinstance(result.exception, ModuleNotFoundError)
