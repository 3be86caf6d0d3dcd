"""Files of the published trainer: NumPy scalars, numbers of channels, and the kind of patch merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gcis_runtime.errors import CheckpointError
from gcis_train.weights import checkpoint
from gcis_train.weights.foreign import import_file, read_foreign
from tests.support.swin_unetr import swin_unetr_state
from tests.train.weights.test_foreign import published


class _Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


class _Scalar:
    """An object pickled as a NumPy scalar of another type and state."""

    def __init__(self, code: str, value: object) -> None:
        self.code, self.value = code, value

    def __reduce__(self) -> Any:
        return (np.float64(0).__reduce__()[0], (np.dtype(self.code), self.value))


@pytest.mark.parametrize("name", ["model.pt", "model_final.pt", "model_last_epoch.pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_the_published_trainer_is_read(tmp_path: Path, name: str, zipped: bool) -> None:
    state = published("two_pathways", "routed")
    content = {"epoch": 3, "best_acc": np.float64(0.8125), "state_dict": state, "mean": np.float32(0.5)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    found = import_file(tmp_path / name, tmp_path / "checkpoint")
    assert (found.kind, found.unused, found.missing) == ("gcis-routed", {}, ())
    assert checkpoint.load(tmp_path / "checkpoint").config.network.merging == "v0.9"


def test_the_name_of_numpy_1_is_known_too(tmp_path: Path) -> None:
    torch.save({"best_acc": np.float64(0.5), **swin_unetr_state()}, tmp_path / "new.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    data = (tmp_path / "new.pt").read_bytes()
    assert b"numpy._core.multiarray" in data
    (tmp_path / "old.pt").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_foreign(tmp_path / "old.pt").kind == "swin-unetr"


def test_nothing_else_is_accepted_or_executed(tmp_path: Path) -> None:
    touched, allowed = tmp_path / "touched", torch.serialization.get_safe_globals()
    record = np.zeros(1, dtype=[("a", "i4"), ("b", "f8")])[0]
    values = (_Payload(touched), np.zeros(2), np.dtype("O"), record, np.str_("x"), _Scalar("f8", b"short"))
    for bad in values:
        torch.save({"state_dict": {"weight": torch.zeros(2)}, "best_acc": bad}, tmp_path / "bad.pt")
        with pytest.raises(CheckpointError, match="more than tensors"):
            read_foreign(tmp_path / "bad.pt")
    assert not touched.exists()
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


@pytest.mark.parametrize(("case", "kind"), [("two_pathways", "routed"), ("small", "single")])
def test_three_classes_are_refused(tmp_path: Path, case: str, kind: str) -> None:
    state = published(case, kind)
    for name in [n for n in state if n.startswith("out")]:
        state[name] = torch.cat([state[name], state[name][:1]])
    torch.save(state, tmp_path / "three.pt")
    with pytest.raises(CheckpointError, match="received 3 output channels; expected 2 output channels per"):
        read_foreign(tmp_path / "three.pt")


def test_two_image_channels_are_refused(tmp_path: Path) -> None:
    torch.save(swin_unetr_state(in_channels=2), tmp_path / "two.pt")
    state = published("small", "single")
    for name in ("swinViT.patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight",
                 "encoder1.layer.conv3.conv.weight"):  # fmt: skip
        state[name] = state[name].repeat_interleave(2, dim=1)
    torch.save(state, tmp_path / "single.pt")
    for name in ("two.pt", "single.pt"):
        with pytest.raises(CheckpointError, match="received 2 input channels; expected 1 input channel"):
            import_file(tmp_path / name, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_every_format_was_trained_with_the_merging_of_monai_0_9(tmp_path: Path) -> None:
    full = swin_unetr_state()
    encoder = {n.replace("swinViT", "module.swin_vit"): t for n, t in full.items() if n.startswith("swinViT")}
    for state in (full, encoder, published("small", "single"), published("two_pathways", "routed")):
        torch.save({"state_dict": state}, tmp_path / "weights.pt")
        assert read_foreign(tmp_path / "weights.pt").config.network.merging == "v0.9"
    assert read_foreign(tmp_path / "weights.pt", merging="v2").config.network.merging == "v2"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_called_incomplete(tmp_path: Path, share: float, zipped: bool) -> None:
    file = tmp_path / "cut.pt"
    torch.save({"state_dict": swin_unetr_state()}, file, _use_new_zipfile_serialization=zipped)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"incomplete or damaged.*Download or copy the file") as caught:
        read_foreign(file)
    assert "permissions" not in str(caught.value) and "run code" not in str(caught.value)


def test_a_file_that_cannot_be_opened_is_about_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match=r"cannot be read; received .*path and its permissions"):
            read_foreign(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state = published("two_pathways", "routed")
    state["decoder3.conv_block_p1.conv2.conv.weight"].view(-1)[7] = value
    torch.save({"state_dict": state}, tmp_path / "routed.pt")
    with pytest.raises(
        CheckpointError, match=r"not finite; received NaN or infinity in decoder3\.conv_block_p1\.conv2"
    ):
        import_file(tmp_path / "routed.pt", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()
