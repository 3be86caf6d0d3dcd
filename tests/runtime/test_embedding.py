"""Test use from other programs: threads, no global state, and type information."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gcis_runtime
from gcis_runtime.errors import EngineError
from tests.support.bundles_and_images import smooth_ct
from tests.support.fake_session import ThresholdSession, threshold_segmenter

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
REPOSITORY = Path(__file__).parents[2]


def python(code: str, *arguments: object, cwd: Path) -> str:
    """Run code in a separate interpreter and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


class Busy:
    """Called at every window; records whether two threads were ever inside at once."""

    def __init__(self) -> None:
        self.inside, self.overlapped = 0, False

    def __call__(self) -> None:
        self.inside += 1
        self.overlapped |= self.inside > 1
        time.sleep(0.002)  # gives up the interpreter, so that another thread would come in
        self.inside -= 1


def test_threads_take_turns_and_each_gets_its_own_labels():
    busy, results = Busy(), {}
    images = {seed: smooth_ct((70, 20, 20), seed=seed) for seed in range(4)}
    with threshold_segmenter(ThresholdSession(before=busy)) as segmenter:
        expected = {seed: segmenter.segment(image, affine=AFFINE).labels for seed, image in images.items()}
        threads = [
            threading.Thread(
                target=lambda s=seed: results.update({s: segmenter.segment(images[s], affine=AFFINE)})
            )
            for seed in images
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not busy.overlapped
    for seed in images:
        np.testing.assert_array_equal(results[seed].labels, expected[seed])
    assert len({expected[seed].tobytes() for seed in images}) == len(images)


def test_closing_waits_for_the_thread_that_segments():
    started, events = threading.Event(), []

    def window() -> None:
        started.set()
        time.sleep(0.01)
        events.append("window")

    session = ThresholdSession(before=window)
    session.close = lambda: events.append("close")
    segmenter = threshold_segmenter(session)
    worker = threading.Thread(target=lambda: segmenter.segment(smooth_ct((150, 20, 20)), affine=AFFINE))
    worker.start()
    started.wait(30)
    segmenter.close()
    worker.join()
    assert events.count("window") >= 2
    assert events.index("close") == len(events) - 1


def test_after_the_block_it_is_closed_once_and_says_so():
    session = ThresholdSession()
    with threshold_segmenter(session) as segmenter:
        pass
    segmenter.close()
    assert session.closed == 1
    with pytest.raises(EngineError, match="the segmenter is closed"):
        segmenter.segment(smooth_ct((9, 9, 9)), affine=AFFINE)


def test_an_error_inside_the_block_closes_too_and_the_lock_is_free_again():
    session = ThresholdSession(before=lambda: (_ for _ in ()).throw(EngineError("broken")))
    segmenter = threshold_segmenter(session)
    for _ in range(2):  # the second would wait for ever if the first had kept the lock
        with pytest.raises(EngineError, match="broken"):
            segmenter.segment(smooth_ct((9, 9, 9)), affine=AFFINE)
    with pytest.raises(KeyError), segmenter:
        raise KeyError
    assert session.closed == 1


STATE = """
import faulthandler, json, locale, logging, os, random, signal, sys, threading, warnings
import nibabel, numpy, onnxruntime, openvino  # what these do to the process is not ours to answer for

def state():
    loggers = logging.root.manager.loggerDict
    return {
        "handlers of the root": repr(logging.root.handlers), "its level": logging.root.level,
        "disabled below": logging.root.manager.disable,
        "loggers": sorted((n, repr(l.handlers), l.level, l.propagate) for n, l in loggers.items()
                          if isinstance(l, logging.Logger) and not n.startswith("gcis_runtime")),
        "warnings": repr(warnings.filters), "showwarning": repr(warnings.showwarning),
        "floating point": numpy.geterr(), "print options": repr(numpy.get_printoptions()),
        "random": hash(random.getstate()), "numpy random": numpy.random.get_state()[1].tolist(),
        "environment": dict(os.environ), "folder": os.getcwd(), "umask": open("/proc/self/status").read()
            .partition("Umask:")[2].split()[0] if os.path.exists("/proc/self/status") else None,
        "signals": [repr(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "hooks": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.displayhook)],
        "faulthandler": faulthandler.is_enabled(), "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(), "streams": [repr(sys.stdout), repr(sys.stderr)],
        "path": sys.path, "finders": repr(sys.meta_path), "decimal": threading.active_count(),
    }
"""


def changed(work: str, *arguments: object, cwd: Path) -> list[str]:
    """Run code in a fresh interpreter and return which parts of its global state it changed."""
    code = f"{STATE}\nbefore = state()\n{work}\nafter = state()\n"
    code += "print(json.dumps([name for name in before if before[name] != after[name]]))"
    return json.loads(python(code, *arguments, cwd=cwd))


def test_the_process_is_left_as_it_was(make_bundle, ct, tmp_path):
    work = (
        "from gcis_runtime import Segmenter, read_volume\n"
        "for engine in ('onnx', 'openvino'):\n"
        "    with Segmenter.open(sys.argv[1], engine=engine) as segmenter:\n"
        "        result = segmenter.segment(read_volume(sys.argv[2]))\n"
        "        result.save('out/' + engine + '.nii.gz')\n"
    )
    assert changed(work, make_bundle(), ct, cwd=tmp_path) == []
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_change_would_be_seen(tmp_path):
    work = "logging.basicConfig(); warnings.simplefilter('ignore'); numpy.seterr(all='raise'); os.umask(0o7)"
    assert changed(work, cwd=tmp_path) == ["handlers of the root", "warnings", "floating point", "umask"]


def test_importing_the_package_imports_nothing_else(tmp_path):
    """The limit is 0.2 s. Importing numpy may take that long, so names are imported on first use."""
    code = (
        "import sys; before = set(sys.modules); import gcis_runtime; dir(gcis_runtime)\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    assert python(code, cwd=tmp_path).strip() == "['gcis_runtime']"


def test_public_names_are_there_and_annotated_completely():
    assert (Path(gcis_runtime.__file__).parent / "py.typed").is_file()
    assert dir(gcis_runtime) == sorted(gcis_runtime.__all__)
    missing = []
    for name in gcis_runtime.__all__:
        public = getattr(gcis_runtime, name)
        assert public.__doc__, name
        functions = [(name, public)] if inspect.isfunction(public) else list(vars(public).items())
        for member, found in functions:
            function = getattr(found, "__func__", getattr(found, "fget", found))
            if not inspect.isfunction(function) or (member.startswith("_") and member != "__init__"):
                continue
            if function.__module__ != public.__module__ or function.__qualname__.startswith("__create_fn__"):
                continue
            signature = inspect.signature(function)
            parts = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
            missing += [f"{name}.{member}({p.name})" for p in parts if p.annotation is p.empty]
            if signature.return_annotation is signature.empty:
                missing.append(f"{name}.{member} ->")
    assert missing == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gcis_runtime.nothing  # noqa: B018


@pytest.mark.slow
def test_a_type_checker_understands_a_users_program(tmp_path):
    good = (
        "import nibabel, numpy as np\n"
        "from gcis_runtime import Segmenter, read_volume\n"
        "def main(array: np.ndarray, affine: np.ndarray) -> float:\n"
        "    with Segmenter.open('demo') as segmenter:\n"
        "        segmenter.segment(nibabel.load('ct.nii.gz')).to_nibabel()\n"
        "        segmenter.segment(read_volume('ct.nii.gz')).save('seg.nii.gz')\n"
        "        return segmenter.segment(array, affine=affine).structures[0].volume_ml\n"
    )
    (tmp_path / "good.py").write_text(good)
    (tmp_path / "bad.py").write_text(good.replace("-> float", "-> str"))
    # An editable install is found by a hook of the interpreter, which type checkers do not run.
    found = os.environ | {"MYPYPATH": str(Path(gcis_runtime.__file__).parents[1])}
    for name, code in (("good.py", 0), ("bad.py", 1)):
        command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", name]
        done = subprocess.run(command, cwd=tmp_path, env=found, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
