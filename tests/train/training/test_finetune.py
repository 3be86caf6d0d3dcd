"""Test fine-tuning: the tensors that change, resumption, and the checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from gcis_export.resolve import resolve
from gcis_runtime.errors import CheckpointError, DataError, PromptError
from gcis_train.cli.main import main
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import GcisNet, StaticGcisNet
from gcis_train.nets.pathway import Pathway
from gcis_train.options.stored import read_options
from gcis_train.options.training import TrainOptions
from gcis_train.training import finetune
from gcis_train.training.finetune import Job, routed_stage, single_task, two_stages
from gcis_train.training.finetune_task import choose_pathway, routing_embeddings
from gcis_train.training.freezing import (
    FROZEN_PARTS,
    FrozenPart,
    is_block,
    is_frozen,
    is_router,
    on_pathways,
)
from gcis_train.training.loop.run_folder import RunFolder
from gcis_train.training.loop.trainer import Outcome
from gcis_train.training.losses import prompt_loss, value
from gcis_train.training.material import Cases, read_cases
from gcis_train.training.objectives import FixedObjective
from gcis_train.training.run import Run
from gcis_train.weights import checkpoint
from gcis_train.weights.checkpoint import Checkpoint, CheckpointConfig, PromptEntry, prompt_table
from gcis_train.weights.upcycle import fit_routers
from tests.support.short_training import deterministic
from tests.support.training_values import PROMPTS, Silent, batch, equal_states, options, write_cases

NETWORK = NetworkConfig(feature_size=12, pathways=3, text_dim=8)
SMALL = (64, 32, 32)
LEFT, RIGHT = Pathway((0, 0, 1, 0, 0, 0, 0)), Pathway((0, 0, 1, 0, 0, 1, 1))
RUN = options(network=NETWORK, max_epochs=2, warmup_epochs=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Write a routed checkpoint with random weights whose routers choose LEFT and RIGHT for the prompts."""
    torch.manual_seed(3)
    net = GcisNet(NETWORK)
    embeddings = torch.randn(2, 8)
    fit_routers(net, embeddings, (LEFT, RIGHT), gap=4.0)
    folder = tmp_path_factory.mktemp("source") / "routed"
    config = CheckpointConfig(
        kind="routed",
        network=NETWORK,
        preprocess=RUN.preprocess,
        window=RUN.window,
        prompts=prompt_table(PROMPTS, embeddings),
        text_weights="random (seed 0)",
    )
    checkpoint.save(folder, config, net.state_dict())
    return checkpoint.load(folder)


def _job(source: Checkpoint, folder: Path, **changes: Any) -> Job:
    path = folder / "datalist.json"
    run: dict[str, Any] = {
        "options": RUN,
        "run_dir": folder / "run",
        "device": torch.device("cpu"),
        "progress": Silent(),
    }
    datalist = path if path.exists() else write_cases(folder, 1)
    return Job(source=source, datalist=datalist, run=Run(**{**run, **changes}))


def _with(job: Job, **changes: Any) -> Job:
    """Return the job with other settings of its run."""
    return dataclasses.replace(job, run=dataclasses.replace(job.run, **changes))


def _changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert after.keys() <= before.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


class Interrupting(Silent):
    """Progress that stops the training after its first step."""

    def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
        super().step(epoch=epoch, step=step, steps=steps, loss=loss)
        if len(self.losses) == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_single_task_changes_all_but_the_transformer_and_resumes_to_the_same_weights(
    source: Checkpoint, tmp_path: Path
) -> None:
    job = _job(source, tmp_path)
    with deterministic():
        assert single_task(job, prompt="right ball", path_selection=None).finished
    found = checkpoint.load(job.run.run_dir, prefer="latest")
    assert found.config.kind == "static" and found.prompts == ("right ball",)
    assert found.config.path_selections == (RIGHT.one_based,)
    assert found.config.prompts == source.config.prompts[1:]
    assert found.config.provenance["source_sha256"] == source.sha256
    assert found.static().pathways == (RIGHT,)
    parameters = {n for n, _ in found.static().named_parameters()}
    changed = _changed(source.weights, found.weights)
    assert changed == {n for n in parameters if not n.startswith("encoder.swin.")}
    convolutions = ("encoder1", "encoder2", "encoder3", "encoder4", "encoder5", "encoder10")
    assert {n.split(".")[1] for n in changed if is_frozen(n, "encoder")} == set(convolutions)
    assert any("norm" in n for n in parameters - changed)  # norms with weights, which stayed

    exported = resolve(found, ["right ball"])  # by prompt, and no text weights given
    assert [choice.pathway for choice in exported.choices] == [RIGHT]
    assert equal_states(exported.network, found.weights)

    other = _with(job, run_dir=tmp_path / "other", progress=Interrupting())
    with deterministic():
        assert not single_task(other, prompt="right ball", path_selection=None).finished
        again = _with(other, resume=True, progress=Silent())
        assert single_task(again, prompt="right ball", path_selection=None).finished
    assert equal_states(found.weights, checkpoint.load(other.run.run_dir, prefer="latest").weights)

    for changes, what in (
        ({"prompt": "left ball", "path_selection": None}, "pathway"),
        ({"prompt": "left ball", "path_selection": str(RIGHT)}, "prompt table"),
    ):
        with pytest.raises(CheckpointError, match=f"started with another {what}"):
            single_task(again, **changes)
    with pytest.raises(CheckpointError, match=r"started with another checkpoint.*another --run-dir"):
        moved = dataclasses.replace(source, sha256="0")
        single_task(dataclasses.replace(again, source=moved), prompt="right ball", path_selection=None)


@pytest.mark.parametrize(("part", "tensors", "millions"), [("swin", 42, 18.7), ("encoder", 27, 10.3)])
def test_the_published_size_trains_as_many_tensors_as_published(
    part: FrozenPart, tensors: int, millions: float
) -> None:
    net = StaticGcisNet(NetworkConfig(feature_size=48, pathways=1), [Pathway((0,) * 7)])
    trained = [p for n, p in net.named_parameters() if not is_frozen(n, part)]
    assert len(trained) == tensors
    assert sum(p.numel() for p in trained) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("part", FROZEN_PARTS)
def test_the_frozen_part_stays_and_all_else_has_a_gradient(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective], part: FrozenPart
) -> None:
    job = _job(source, tmp_path, options=options(network=NETWORK, grad_checkpoint=True))
    single_task(job, prompt="left ball", path_selection=None, frozen=part)
    net = objectives[0].net.train()
    value(objectives[0].loss(batch(SMALL, (("left ball",),)), done=0.0)).backward()
    found = {n for n, p in net.named_parameters() if p.grad is not None}
    assert (
        found == _trained(objectives[0]) == {n for n, _ in net.named_parameters() if not is_frozen(n, part)}
    )
    assert any(m.training for m in net.encoder.swin.modules()) == (part == "none")
    uses = {m.use_checkpoint for m in net.encoder.swin.modules() if hasattr(m, "use_checkpoint")}
    assert uses == {part == "none"}  # recomputing activations pays only where they are stored


def test_a_resumed_run_keeps_its_frozen_part(source: Checkpoint, tmp_path: Path) -> None:
    job = _job(source, tmp_path, options=options(network=NETWORK, max_epochs=1, warmup_epochs=0))
    assert single_task(job, prompt="left ball", path_selection=None, frozen="encoder").finished
    latest = checkpoint.find(job.run.run_dir, prefer="latest")
    config = json.loads((latest / "config.json").read_text())
    assert config["provenance"].pop("frozen") == "encoder"
    (latest / "config.json").write_text(json.dumps(config))  # as an early version wrote it
    again = _with(job, resume=True, options=options(network=NETWORK, max_epochs=2, warmup_epochs=0))
    with pytest.raises(
        CheckpointError, match="started with another frozen part; received swin; expected enc"
    ):
        single_task(again, prompt="left ball", path_selection=None, frozen="swin")
    assert single_task(again, prompt="left ball", path_selection=None).finished
    weights = checkpoint.load(job.run.run_dir, prefer="latest").weights
    assert not any(is_frozen(n, "encoder") for n in _changed(source.weights, weights))


def test_the_published_recipe_keeps_network_window_and_preprocessing_of_the_checkpoint(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective]
) -> None:
    shown = _finetune(source, tmp_path, "--prompt", "left ball", "--published", "--intensity-clip", "off")
    assert shown.exit_code == 0, shown.output
    run = read_options((tmp_path / "run" / "options.json").read_bytes())
    assert (run.network, run.window, run.preprocess) == (NETWORK, RUN.window, RUN.preprocess)
    assert (run.batch_of, run.crop, run.unused_blocks) == ("cases", "inside", "decay")
    assert (run.max_epochs, run.schedule, run.augment.intensity_clip) == (5000, "epoch_cosine", False)
    assert len(_trained(objectives[0])) == 42


def test_two_stages_change_the_routed_blocks_then_everything_else(source: Checkpoint, tmp_path: Path) -> None:
    job = _job(source, tmp_path, options=options(network=NETWORK, max_epochs=1, warmup_epochs=0))
    assert two_stages(job).finished
    first, second = (checkpoint.load(job.run.run_dir / stage, prefer="latest") for stage in finetune.STAGES)
    parameters = {n for n, _ in source.routed().named_parameters()}
    assert _changed(source.weights, first.weights) == {n for n in parameters if on_pathways(n, (LEFT, RIGHT))}
    assert _changed(first.weights, second.weights) == {
        n for n in parameters if not is_block(n) and not is_router(n)
    }
    net = second.routed()
    assert [net.resolve(second.embedding(p)) for p in PROMPTS] == [LEFT, RIGHT]
    for found in (first, second):
        assert found.config.kind == "routed" and found.config.prompts == source.config.prompts
    assert second.config.provenance["source_sha256"] == first.sha256
    # Resumed, a finished run trains nothing, and says so.
    progress = Silent()
    again = _with(job, resume=True, progress=progress)
    assert two_stages(again).finished and progress.losses == []
    with pytest.raises(CheckpointError, match="started with another stage"):
        routed_stage(again.in_folder(job.run.run_dir / "pathways"), "shared")


@pytest.fixture
def objectives(monkeypatch: pytest.MonkeyPatch) -> list[FixedObjective]:
    """Record the objectives that would be trained."""
    caught: list[FixedObjective] = []

    def train(objective: FixedObjective, _cases: Cases, run: Run, _config: CheckpointConfig) -> Outcome:
        caught.append(objective)
        RunFolder(run.run_dir).write_options(run.options)
        return Outcome(finished=True, epoch=1, best_dice=None, latest=run.run_dir)

    monkeypatch.setattr(finetune, "train", train)
    return caught


def _trained(objective: FixedObjective) -> set[str]:
    return {n for n, p in objective.net.named_parameters() if p.requires_grad}


def test_a_step_changes_only_the_blocks_that_its_rows_are_routed_to(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective]
) -> None:
    routed_stage(_job(source, tmp_path), "pathways")
    net = objectives[0].net.train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    for prompts, pathways in (((PROMPTS[1],), (RIGHT,)), (PROMPTS, (LEFT, RIGHT))):
        optimizer.zero_grad(set_to_none=True)
        value(objectives[0].loss(batch(SMALL, (prompts,)), done=0.0)).backward()
        optimizer.step()
        names = {n for n, _ in net.named_parameters() if on_pathways(n, pathways)}
        assert _changed(before, net.state_dict()) == names
    assert len(names) < sum(is_block(n) for n, _ in net.named_parameters())


def test_a_frozen_encoder_is_in_evaluation_mode_without_gradients_or_checkpointing(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective]
) -> None:
    job = _job(source, tmp_path, options=options(network=NETWORK, grad_checkpoint=True))
    single_task(job, prompt="left ball", path_selection=None, frozen="encoder")
    routed_stage(job, "pathways")
    routed_stage(job, "shared")
    single, pathways, shared = objectives
    for objective in (single, pathways):
        net = objective.net.train()
        assert all(m.use_checkpoint is False for m in net.encoder.modules() if hasattr(m, "use_checkpoint"))
        value(objective.loss(batch(SMALL, (("left ball",),)), done=0.0)).backward()
        assert not any(m.training for m in net.encoder.modules()) and net.decoder.training
        assert all(p.grad is None for n, p in net.named_parameters() if is_frozen(n, "encoder"))
        assert any(p.grad is not None for p in net.decoder.parameters())
        assert not any(f.requires_grad for f in objective._encode(torch.rand(1, 1, *SMALL)))
    assert _trained(single) == {n for n, _ in single.net.named_parameters() if not is_frozen(n, "encoder")}
    uses = {m.use_checkpoint for m in shared.net.encoder.modules() if hasattr(m, "use_checkpoint")}
    assert uses == {True} and all(is_frozen(n, "encoder") or ".up." in n for n in _trained(shared))


def test_fixed_pathways_give_the_loss_and_gradients_of_rows_run_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    net = GcisNet(NETWORK).double()
    data = batch(SMALL, (("right ball",), (), PROMPTS, ("right ball",)))
    data = dataclasses.replace(data, images=data.images.double(), masks=tuple(m.double() for m in data.masks))
    pathways = {"left ball": LEFT, "right ball": RIGHT}
    together = value(FixedObjective(net, pathways, frozen="encoder").loss(data, done=0.0))
    together.backward()
    mine = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    with torch.no_grad():
        features = [net.encoder(image[None]) for image in data.images]
    losses = [
        prompt_loss(net.decoder(features[i], pathways[prompt]), mask[None])
        for i, (masks, prompts) in enumerate(zip(data.masks, data.prompts, strict=True))
        for mask, prompt in zip(masks, prompts, strict=True)
    ]
    apart = torch.stack(losses).mean()
    apart.backward()
    assert len(losses) == 4 and abs(float((together - apart).detach())) < 1e-12
    wanted = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert mine.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient is not None
        assert (mine[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max() + 1e-12, name
    empty = batch(SMALL, ((),))
    assert float(FixedObjective(net, pathways, frozen="encoder").loss(empty, done=0.0)[0].count) == 0


def test_new_words_are_named_and_prompts_without_training_stay_marked(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gcis_train.training.finetune_task.embeddings_of",
        lambda _found, prompts, **_: dict.fromkeys(prompts, torch.ones(8)),
    )
    embeddings, notes = routing_embeddings(source, ["ball", "right ball"], clip_weights="random")
    assert list(embeddings) == ["ball", "right ball"]
    (note,) = notes
    assert note.startswith("the network was not trained with 'ball' before")
    added = ["left ball", "cube"]
    config = msgspec.structs.replace(
        source.config,
        provenance={"untrained_prompts": added},
        prompts=(*source.config.prompts, PromptEntry(prompt="cube", embedding=(1.0,) * 8)),
    )
    found = dataclasses.replace(source, config=config)
    assert found.trained_prompts == ("right ball",)
    job = _job(found, tmp_path)
    cases = read_cases(job.datalist, job.run.options, notify=lambda _: None)
    assert finetune._checkpoint_config(job, cases, stage="shared").provenance["untrained_prompts"] == ["cube"]


def test_a_pathway_is_chosen_by_prompt_by_hand_or_by_the_static_network(
    source: Checkpoint, tmp_path: Path
) -> None:
    def choose(found: Checkpoint, prompt: str, by_hand: str | None = None) -> Pathway:
        return choose_pathway(found, prompt, path_selection=by_hand, clip_weights=None)[0]

    assert choose(source, "left ball") == LEFT
    pathway, entry, notes = choose_pathway(source, "Ball_L", path_selection=None, clip_weights=None)
    assert pathway == LEFT and entry.embedding == source.config.prompts[0].embedding
    assert entry.prompt == "Ball_L" and notes == ("'Ball_L' is routed like the trained prompt 'left ball'",)
    assert choose(source, "anything", "3,1,1,1,1,1,2").one_based == (3, 1, 1, 1, 1, 1, 2)
    for prompt, by_hand, message in (
        ("spleen", None, "no text embedding"),
        ("ball", None, "no text embedding"),  # both sides: a new structure
        (" ", None, "empty"),
        ("left ball", "4,1,1,1,1,1,1", "numbers from 1 to 3"),
        ("left ball", "1,1", "path selection cannot be read"),
    ):
        with pytest.raises(PromptError, match=message):
            choose(source, prompt, by_hand)

    def static(*pathways: Pathway) -> Checkpoint:
        selections = tuple(p.one_based for p in pathways)
        config = CheckpointConfig(
            kind="static",
            network=NETWORK,
            prompts=source.config.prompts[: len(pathways)],
            path_selections=selections,
        )
        return dataclasses.replace(source, config=config)

    assert choose(static(RIGHT), "anything") == RIGHT
    assert choose(static(LEFT, RIGHT), "right ball") == RIGHT
    with pytest.raises(PromptError, match="no text embedding"):
        choose(static(LEFT, RIGHT), "anything")
    with pytest.raises(PromptError, match="pathways are fixed"):
        choose(static(LEFT), "left ball", str(LEFT))


def test_a_part_of_a_static_network_is_trained(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective]
) -> None:
    net = source.routed()
    both = StaticGcisNet.resolved(net, [LEFT, RIGHT])
    config = CheckpointConfig(
        kind="static",
        network=NETWORK,
        prompts=source.config.prompts,
        path_selections=(LEFT.one_based, RIGHT.one_based),
    )
    checkpoint.save(tmp_path / "static", config, both.state_dict())
    single_task(
        _job(checkpoint.load(tmp_path / "static"), tmp_path), prompt="right ball", path_selection=None
    )
    state = objectives[0].net.state_dict()
    assert objectives[0].net.pathways == (RIGHT,) and _changed(source.weights, state) == set()


def test_what_cannot_be_trained_is_one_clear_error(source: Checkpoint, tmp_path: Path) -> None:
    job = _job(source, tmp_path)
    with pytest.raises(DataError, match=r"several structures.*'left ball', 'right ball'.*--prompt"):
        single_task(job, prompt=None, path_selection=str(LEFT))
    with pytest.raises(DataError, match=r"no training rows of 'spleen'; expected one of 'left ball'"):
        single_task(job, prompt="spleen", path_selection=str(LEFT))
    with pytest.raises(CheckpointError, match="keeps the network of its checkpoint"):
        _job(source, tmp_path, options=TrainOptions())
    assert not job.run.run_dir.exists()


def _finetune(source: Checkpoint, folder: Path, *args: str, run: str = "run") -> Result:
    datalist = folder / "datalist.json"
    if not datalist.exists():
        write_cases(folder, 1)
    start = ["--checkpoint", str(source.folder), "--datalist", str(datalist)]
    return CliRunner().invoke(main, ["finetune", *start, "--run-dir", str(folder / run), *args])


def test_the_command_takes_network_window_and_preprocessing_from_the_checkpoint(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective]
) -> None:
    shown = _finetune(source, tmp_path, "--prompt", "left ball", "--spacing", "3", "--max-epochs", "7")
    assert shown.exit_code == 0 and "finished after epoch 1" in shown.stdout, shown.output
    assert "'left ball' on pathway 1,1,2,1,1,1,1" in shown.stderr
    assert "Swin transformer frozen" in shown.stderr
    run = read_options((tmp_path / "run" / "options.json").read_bytes())
    assert (run.network, run.window) == (NETWORK, RUN.window) and run.max_epochs == 7
    assert run.preprocess.orientation == "RAS" and run.preprocess.spacing == (3.0, 3.0, 3.0)
    assert isinstance(objectives[0].net, StaticGcisNet)
    shown = _finetune(source, tmp_path, "--stage", "shared", run="shared")
    assert shown.exit_code == 0 and isinstance(objectives[1].net, GcisNet)
    assert all(is_frozen(n, "encoder") or ".up." in n for n in _trained(objectives[1]))
    by_hand = ("--prompt", "left ball", "--path-selection", "3,1,1,1,1,1,2")
    assert _finetune(source, tmp_path, *by_hand, run="hand").exit_code == 0
    assert isinstance(objectives[2].net, StaticGcisNet)
    assert objectives[2].net.pathways[0].one_based == (3, 1, 1, 1, 1, 1, 2)


def test_a_published_list_of_one_task_has_no_prompts_and_further_keys(
    source: Checkpoint, tmp_path: Path, objectives: list[FixedObjective]
) -> None:
    lists = json.loads(write_cases(tmp_path, 1).read_text())
    rows = [
        {"image": r["image"], "label": r["label"], "label_value": r.get("label_value"), "fold": 0}
        for r in lists["training"]
        if r["prompt"] == "left ball"
    ]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": rows + rows, "validation": []}))
    shown = _finetune(source, tmp_path, "--prompt", "left ball")
    assert shown.exit_code == 0 and len(objectives) == 1, shown.output
    assert f"datalist: the key 'fold' of {2 * len(rows)} rows is ignored" in shown.stderr
    assert "2 rows of 'left ball'" in shown.stderr
    refused = _finetune(source, tmp_path, "--stage", "shared", run="shared")
    assert refused.exit_code == 2 and "training[0] has no prompt" in refused.stderr


def test_errors_of_the_command_are_one_line_and_leave_nothing(source: Checkpoint, tmp_path: Path) -> None:
    for args, part in (
        ((), "--prompt or --path-selection for one task, or --stage"),
        (
            ("--stage", "both", "--prompt", "left ball"),
            "--prompt or --path-selection for one task, or --stage",
        ),
        (("--stage", "both", "--published"), "recipe of pretraining and of one task"),
        (("--stage", "both", "--frozen", "none"), "--frozen is for one task"),
        (("--prompt", "left ball", "--published", "--mirror", "sided"), "differs from the published recipe"),
        (
            ("--prompt", "left ball", "--published", "--orientation", "LPS"),
            "differs from the published recipe",
        ),
        (("--stage", "pathways", "--unsampled", "drift"), "received unused_blocks decay"),
        (("--prompt", "spleen"), "no text embedding"),
        (("--prompt", ""), "the prompt is empty"),
        (("--path-selection", "9,9"), "--prompt"),
        (("--prompt", "left ball", "--path-selection", "9,9"), "path selection cannot be read"),
        (("--prompt", "left ball", "--feature-size", "24"), "keeps the network"),
    ):
        shown = _finetune(source, tmp_path, *args)
        assert shown.exit_code == 2 and part in shown.stderr and "Traceback" not in shown.output, args
        assert shown.stderr.strip().splitlines()[-1].count("rror: ") == 1
        assert not (tmp_path / "run").exists(), args
    folder = tmp_path / "run" / "pathways"
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_text("{}")
    assert "already contains a run" in _finetune(source, tmp_path, "--stage", "both").stderr


def test_an_import_by_an_earlier_version_keeps_its_text_weights_and_its_note(
    source: Checkpoint, tmp_path: Path
) -> None:
    older = {"text_weights": "unknown", "provenance": {"source_kind": "gcis-routed"}}
    config = msgspec.structs.replace(source.config, **older)
    imported = dataclasses.replace(source, config=config, notes=("the patch merging is assumed",))
    assert finetune.base_options(imported)["text_weights"] == "laion400m_e32"
    progress = Silent()
    job = _job(imported, tmp_path, progress=progress, options=msgspec.structs.replace(RUN, max_epochs=1))
    assert finetune.fine_tune(job, prompt="left ball").finished
    assert progress.lines[0] == "the patch merging is assumed"
    tuned = checkpoint.load(job.run.run_dir, prefer="latest")
    assert tuned.text_weights == "laion400m_e32"
