"""Test pathways: parsing, formatting, assignment and grouping."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcis_runtime.errors import PromptError
from gcis_train.nets.pathway import Pathway, group_equal, next_pathway, separate, spread

CHOICES = st.lists(st.integers(0, 11), min_size=7, max_size=7).map(tuple)


@given(CHOICES)
def test_reading_undoes_writing(choices: tuple[int, ...]) -> None:
    pathway = Pathway(choices)
    assert Pathway.parse(str(pathway), pathways=12) == pathway
    assert pathway.one_based == tuple(c + 1 for c in choices)


def test_people_count_from_one() -> None:
    assert Pathway.parse("2,1,3,5,3,6,6", pathways=6).choices == (1, 0, 2, 4, 2, 5, 5)
    assert str(Pathway((0, 1, 2, 3, 4, 5, 0))) == "1,2,3,4,5,6,1"


@pytest.mark.parametrize(
    "text",
    ["", "1,2,3", "0,1,1,1,1,1,1", "7,1,1,1,1,1,1", "1,1,1,1,1,1,x", "1,1,1,1,1,1,1,1", "1.5,1,1,1,1,1,1"],
)
def test_what_is_no_path_selection(text: str) -> None:
    with pytest.raises(PromptError, match=r"received .* expected 7 numbers from 1 to 6"):
        Pathway.parse(text, pathways=6)


@pytest.mark.parametrize("choices", [(0,) * 6, (0,) * 8, (0, 0, 0, -1, 0, 0, 0)])
def test_an_impossible_pathway_does_not_exist(choices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        Pathway(choices)


@given(st.integers(0, 400), st.integers(2, 7))
def test_spread_pathways_are_distinct_and_fit(prompts: int, pathways: int) -> None:
    if prompts > pathways**7:
        return
    spreading = spread(prompts, pathways=pathways)
    assert len(spreading) == prompts == len(set(spreading))
    assert all(c < pathways for p in spreading for c in p.choices)


def test_spread_to_the_last_pathway() -> None:
    assert len(set(spread(128, pathways=2))) == 128
    assert spread(1, pathways=1) == (Pathway((0,) * 7),)
    with pytest.raises(PromptError, match="at most 128 with 2 pathways"):
        spread(129, pathways=2)


def test_seven_prompts_split_at_decoder1_in_groups_of_equal_size() -> None:
    spreading = spread(7, pathways=6)
    assert [len({p.choices[i] for p in spreading}) for i in range(7)] == [1, 1, 1, 1, 1, 2, 6]
    assert sorted([p.choices[5] for p in spreading].count(c) for c in (0, 1)) == [3, 4]


def test_groups_of_equal_pathways() -> None:
    same, other = Pathway((0,) * 7), Pathway((1,) * 7)
    assert group_equal({"a": same, "b": other, "c": same}) == [["a", "c"]]
    assert group_equal({"a": same, "b": other}) == []


@given(st.integers(1, 40), st.integers(2, 7))
def test_separated_pathways_use_every_block_and_keep_different_blocks_different(
    prompts: int, pathways: int
) -> None:
    if prompts > pathways**7:
        return
    given = spread(prompts, pathways=pathways)
    separated = separate(given, pathways=pathways)
    assert len(set(separated)) == prompts
    for position in range(7):
        old = [p.choices[position] for p in given]
        new = [p.choices[position] for p in separated]
        assert set(new) == set(range(min(prompts, pathways)))
        blocks = {(b, a) for a, b in zip(old, new, strict=True)}
        assert len(blocks) == len(set(new))  # a block copies one block only


def test_prompts_that_share_a_block_have_other_blocks_at_the_next_position() -> None:
    separated = separate(spread(8, pathways=6), pathways=6)

    def sharing(position: int) -> set[tuple[int, int]]:
        pairs = itertools.combinations(range(8), 2)
        return {(a, b) for a, b in pairs if separated[a].choices[position] == separated[b].choices[position]}

    for position in range(4):
        assert len(sharing(position)) == 2
        assert not sharing(position) & sharing(position + 1)


def test_a_further_prompt_joins_the_smaller_group_of_the_next_to_last_position() -> None:
    seven = spread(7, pathways=6)
    assert next_pathway(seven, pathways=6) == Pathway((0, 0, 0, 0, 0, 1, 1))
    with pytest.raises(PromptError, match=r"no pathway left.*fewer than 4 with 2"):
        next_pathway(spread(4, pathways=2), pathways=2)
