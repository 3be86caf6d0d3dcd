"""The names that datasets use for their structures find the prompts of the adaptors."""

from __future__ import annotations

from gcis_runtime.structures.match import concept_of, match_prompt
from gcis_train.datasets import amos, btcv, ctorg, hanseg, kits, lits, msd, segrap, totalsegmentator, word

TOTAL = {name: totalsegmentator.prompt_of(name) for name in totalsegmentator.STRUCTURES}
PROMPTS = sorted(
    {
        prompt
        for table in (
            amos.ORGANS, btcv.ORGANS, ctorg.ORGANS, hanseg.ORGANS, kits.LABELS, lits.LABELS,
            segrap.STRUCTURES, word.ORGANS, TOTAL,
        )
        for prompt in table.values()
    }
    | {prompt for task in msd.TASKS.values() for _, prompt in task.values()}
)  # fmt: skip


def test_different_prompts_stay_different_structures() -> None:
    concepts = {concept_of(prompt) for prompt in PROMPTS}
    assert len(concepts) == len(PROMPTS) > 150


def test_file_names_of_datasets_find_their_prompts() -> None:
    known = [(prompt,) for prompt in PROMPTS]
    for table in (hanseg.ORGANS, segrap.STRUCTURES, TOTAL):
        for name, prompt in table.items():
            index = match_prompt(name, known)
            assert index is not None and PROMPTS[index] == prompt, name


def test_prompts_with_a_side_have_a_concept_with_this_side() -> None:
    for prompt in PROMPTS:
        for side in ("left", "right"):
            assert (concept_of(prompt).side == side) == (side in prompt.split()), prompt
