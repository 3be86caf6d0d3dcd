"""Names of structures: aliases, translations and codes find one known prompt, and never the other side."""

from __future__ import annotations

import pytest

from gcis_runtime.bundles.bundle import alias_notes, open_bundle, select_labels
from gcis_runtime.bundles.store import DEMO_FOLDER, find_bundle
from gcis_runtime.errors import AmbiguousPromptError, PromptError
from gcis_runtime.structures.match import concept_of, match_prompt, nearest_prompts

DEMO = (
    "brainstem", "spinal cord", "right parotid gland", "left parotid gland", "esophagus", "larynx",
    "mandible",
)  # fmt: skip
SAME = {
    "left parotid gland": (
        "left parotid", "parotis links", "linke Ohrspeicheldrüse", "Ohrspeicheldruese links", "Parotid_L",
        "parotid-left", "Lt Parotid", "parotide gauche", "glande parotide gauche",
        "glándula parótida izquierda", "SCT 45289007 left", "45289007 7771000",
        "a computerized tomography of a left parotid gland",
    ),
    "right parotid gland": (
        "Parotid_R", "parotis rechts", "parotide droite", "parótida derecha", "SCT:45289007 R",
    ),
    "brainstem": ("brain stem", "BrainStem", "Hirnstamm", "tronc cérébral", "tronco encefálico", "15926001"),
    "spinal cord": (
        "SpinalCord", "spinal_cord", "Rückenmark", "Rueckenmark", "moelle épinière", "médula espinal",
    ),
    "esophagus": ("oesophagus", "Speiseröhre", "œsophage", "Œsophage", "esófago", "SCT 32849002"),
    "larynx": ("Kehlkopf", "laringe"),
    "mandible": (
        "mandibles", "Bone_Mandible", "Unterkiefer", "mandibule", "mandíbula", "lower jaw", "91609006",
    ),
}  # fmt: skip


def find(text: str, *known: str) -> str | None:
    index = match_prompt(text, [(prompt,) for prompt in known])
    return None if index is None else known[index]


@pytest.mark.parametrize(("text", "prompt"), [(text, p) for p, texts in SAME.items() for text in texts])
def test_a_name_finds_its_structure(text: str, prompt: str) -> None:
    assert find(text, *DEMO) == prompt


@pytest.mark.parametrize(
    "text", ["parotid", "Parotis", "SCT 45289007", "parotids", "both parotids", "left right parotid"]
)
def test_a_name_without_side_is_never_one_of_two_sides(text: str) -> None:
    with pytest.raises(
        AmbiguousPromptError, match=r"'right parotid gland', 'left parotid gland'.*Add the side"
    ):
        find(text, *DEMO)
    with pytest.raises(AmbiguousPromptError, match="one of 'left parotid gland'"):
        find(text, "left parotid gland")
    assert find(text, "parotid gland", *DEMO) == "parotid gland"


@pytest.mark.parametrize("mark", ["'", "’", "’ ", "`"])
def test_a_french_article_is_no_side(mark: str) -> None:
    known = ("left eye", "right eye", "aorta", "stomach", "esophagus")
    assert find(f"l{mark}œil droit", *known) == "right eye"
    assert find(f"L{mark}ŒIL GAUCHE", *known) == "left eye"
    assert [find(f"l{mark}{name}", *known) for name in ("aorte", "estomac", "œsophage")] == list(known[2:])
    for name in (f"l{mark}œil", f"d{mark}œil"):
        with pytest.raises(AmbiguousPromptError, match="'left eye', 'right eye'"):
            find(name, *known)
    assert find("l eye", *known) == find("eye_L", *known) == "left eye"


def test_a_side_is_never_lost_or_exchanged() -> None:
    assert find("left parotid", "parotid gland") is None
    assert find("left parotid", "right parotid gland") is None
    assert find("Niere links", "left kidney", "right kidney", "kidney") == "left kidney"
    assert find("18639004", "left kidney", "right kidney") == "left kidney"
    assert find("18639004 right", "left kidney", "right kidney") is None
    assert nearest_prompts("left parrotis", DEMO) == ("left parotid gland",)


def test_two_prompts_of_one_structure_are_ambiguous_unless_named_exactly() -> None:
    known = ("Parotid_L", "left parotid gland")
    with pytest.raises(AmbiguousPromptError, match=r"'Parotid_L', 'left parotid gland'.*Choose one"):
        find("parotis links", *known)
    assert find(" parotid_l", *known) == "Parotid_L"


def test_numbers_name_one_rib_or_vertebra() -> None:
    known = ("left rib 4", "right rib 4", "left rib 5", "vertebra L1", "vertebra L2")
    assert (
        find("rib_left_4", *known)
        == find("4. Rippe links", *known)
        == find("Rib04_L", *known)
        == "left rib 4"
    )
    assert find("25523003 right", *known) == "right rib 4"
    assert find("vertebrae_L1", *known) == find("L1", *known) == find("Wirbel L1", *known) == "vertebra L1"
    for text in ("rib 4", "left rib", "vertebra"):
        with pytest.raises(AmbiguousPromptError, match="side or the number"):
            find(text, *known)


def test_unknown_words_match_nothing() -> None:
    for text in ("tongue", "", "  ", "left", "parotid tumor left", "esophagus wall", "cord blood"):
        assert find(text, *DEMO) is None, text
    assert find("Soft_Tissue_Sarcoma", "soft tissue sarcoma") == "soft tissue sarcoma"
    assert nearest_prompts("mandibel", DEMO) == ("mandible",)
    assert nearest_prompts("tongue", DEMO) == ()


def test_a_bundle_is_selected_by_aliases() -> None:
    manifest = open_bundle(DEMO_FOLDER).manifest
    channel = select_labels(manifest, ["left parotid gland"])
    assert select_labels(manifest, ["parotis links"]) == channel
    assert alias_notes(manifest, ["parotis links", "Mandible"]) == (
        "'parotis links' is the prompt 'left parotid gland' of the bundle",
    )
    with pytest.raises(AmbiguousPromptError, match="left parotid gland"):
        select_labels(manifest, ["parotid"])
    with pytest.raises(PromptError, match=r"no such prompt.*Did you mean 'mandible'\?"):
        select_labels(manifest, ["mandibel"])


def test_the_store_is_searched_by_aliases(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GCIS_HOME", str(tmp_path))
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "head.gcis").symlink_to(DEMO_FOLDER)
    assert find_bundle(None, ["parotis links"]).name == "head.gcis"
    with pytest.raises(AmbiguousPromptError, match="left parotid gland"):
        find_bundle(None, ["parotid"])
    assert concept_of("parotis links") == concept_of("left parotid gland")
