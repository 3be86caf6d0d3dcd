"""Test that the module map of docs/architecture.md agrees with the imports."""

from __future__ import annotations

import grimp
import pytest

from scripts import architecture


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return architecture.import_graph()


def test_the_module_map_is_current(graph: grimp.ImportGraph) -> None:
    """After a change of imports or package docstrings, run `python -m scripts.architecture`."""
    subpackages = architecture.subpackages_of(graph)
    page = architecture.PAGE.read_text()
    assert architecture.page(page, subpackages) == page
    assert architecture.picture(architecture.panels(subpackages)) == architecture.PICTURE.read_text()


def test_an_import_between_subpackages_changes_table_and_picture(graph: grimp.ImportGraph) -> None:
    before = architecture.subpackages_of(graph)
    importer, imported = "gcis_runtime.images.volume", "gcis_runtime.choices"
    assert imported not in before["gcis_runtime.images"].imports
    graph.add_import(importer=importer, imported=imported)
    try:
        after = architecture.subpackages_of(graph)
    finally:
        graph.remove_import(importer=importer, imported=imported)
    assert architecture.table(after) != architecture.table(before)
    assert ("gcis_runtime.images", imported) in architecture.panels(after)["gcis_runtime"].edges
    assert architecture.picture(architecture.panels(after)) != architecture.PICTURE.read_text()


def test_every_subpackage_stands_in_a_layer_and_has_a_purpose(graph: grimp.ImportGraph) -> None:
    subpackages = architecture.subpackages_of(graph)
    drawn = {
        name
        for panel in architecture.panels(subpackages).values()
        for layer in panel.layers
        for name in layer
    }
    assert drawn == subpackages.keys() - {"benchmarks"}
    assert all(len(subpackage.purpose) > 10 for subpackage in subpackages.values())


def test_a_page_without_markers_is_an_error(graph: grimp.ImportGraph) -> None:
    with pytest.raises(ValueError, match="module-map"):
        architecture.page("# Architecture\n", architecture.subpackages_of(graph))
