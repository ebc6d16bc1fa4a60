"""A run that is killed and called again ends bit for bit as one that was not; what is no checkpoint of it is refused.

    python tests/test_checkpoints.py FOLDER    the loop of kills that test_killed starts
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_one_cycle  # noqa: F401 (method)
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam, OptimWrapper, ranger
from fastai.torch_core import params, set_seed
from fastcore.basics import noop
from fastcore.foundation import L
from torch import nn

from ft_tutorial import checkpoints
from ft_tutorial.checkpoints import read_checkpoint
from ft_tutorial.finetuning import fine_tune
from ft_tutorial.plans import Plan

torch.set_num_threads(1)


class Stop(Exception):
    pass


class StopAfter(Callback):
    "Ends the run in the middle of an epoch, after so many whole ones."
    order = 2000

    def __init__(self, epochs):
        self.epochs = epochs

    def after_batch(self):
        if self.training and self.epochs <= 0 and self.iter == 2:
            raise Stop("stopped by the test")

    def after_epoch(self):
        self.epochs -= 1


def body_and_head(model):
    return [params(model[0]), params(model[1])]


def make_learner(folder, n=70, width=8, bs=16, **kwargs):
    set_seed(0)
    x = torch.randn(n, 4)
    items = list(zip(x, (x[:, 0] > 0).long()))
    dls = DataLoaders.from_dsets(items, items, bs=bs, num_workers=0, device="cpu")
    body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2))
    learner = Learner(dls, nn.Sequential(body, nn.Linear(width, 3)), loss_func=CrossEntropyLossFlat(),
                      splitter=body_and_head, metrics=accuracy, path=folder, **kwargs)
    learner.remove_cb(learner.progress)
    learner.logger = noop
    return learner


def result(learner):
    "All that a run leaves behind, as plain numbers."
    recorder = learner.recorder
    values = [learner.model.state_dict(), learner.opt.state_dict(), recorder.losses, recorder.values, recorder.lrs,
              recorder.iters, recorder.hps, learner.final_record, torch.get_rng_state(), random.getstate(),
              np.random.get_state()[1], [dl.rng.getstate() for dl in learner.dls.loaders]]
    return repr(numbers(values)).encode()


def numbers(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return [(str(key), numbers(part)) for key, part in value.items()]
    return [numbers(part) for part in value] if hasattr(value, "__iter__") and not isinstance(value, str) else value


CALL = dict(epochs=3, freeze_epochs=2, base_lr=1e-2)


def run(folder, stop_after=None, make=make_learner, cbs=(), path=None, **call):
    learner = make(folder)
    cbs = [cb() for cb in cbs] + ([StopAfter(stop_after)] if stop_after is not None else [])
    try:
        fine_tune(learner, **(call or CALL), checkpoint=path, cbs=cbs)
    except Stop:
        pass
    return learner


CALLBACKS = {
    "none": [],
    "accumulation over the end of an epoch": [lambda: GradientAccumulation(48)],
    "best model": [SaveModelCallback],
    "early stopping": [lambda: EarlyStoppingCallback("accuracy", min_delta=0.5, patience=2)],
    "mixup": [MixUp],
}
OPTIMIZERS = {
    "Adam": Adam,
    "AdamW of PyTorch": lambda params, **kw: OptimWrapper(params, torch.optim.AdamW, **kw),
    "ranger": ranger,
}


@pytest.mark.parametrize("cbs", CALLBACKS)
@pytest.mark.parametrize("whole", range(5))
def test_stopped_anywhere_ends_the_same(tmp_path, capsys, cbs, whole):
    cbs, path = CALLBACKS[cbs], tmp_path / "run.pt"
    expected = result(run(tmp_path, cbs=cbs))
    run(tmp_path, whole, cbs=cbs, path=path)
    said = capsys.readouterr().out
    if "Stopped after" in said:
        assert f"Stopped after {whole} of 5 epochs" in said
        assert path.exists() == (whole > 0)
    learner = run(tmp_path, cbs=cbs, path=path)
    assert result(learner) == expected
    assert whole == 0 or "Going on from" in capsys.readouterr().out or "early" in str(cbs)
    assert result(run(tmp_path, cbs=cbs, path=path)) == expected  # a third call changes nothing
    assert expected != result(run(tmp_path, cbs=cbs, epochs=3, freeze_epochs=2, base_lr=1.1e-2))  # the control


@pytest.mark.parametrize("whole", range(5))
def test_with_the_progress_bar_that_fastai_shows(tmp_path, capsys, whole):
    def make(folder):
        learner = make_learner(folder)
        learner.add_cb(ProgressCallback())
        learner.logger = print
        return learner
    expected = result(run(tmp_path, make=make))
    run(tmp_path, whole, make=make, path=tmp_path / "run.pt")
    capsys.readouterr()
    assert result(run(tmp_path, make=make, path=tmp_path / "run.pt")) == expected
    assert capsys.readouterr().out.count("%") > 3  # a bar was there


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(tmp_path, optimizer):
    def make(folder):
        return make_learner(folder, opt_func=OPTIMIZERS[optimizer])
    expected = result(run(tmp_path, make=make))
    for whole in (1, 3, 4):
        run(tmp_path, whole, make=make, path=tmp_path / f"{whole}.pt")
        assert result(run(tmp_path, make=make, path=tmp_path / f"{whole}.pt")) == expected


class Scales(Callback):
    "As mixed precision on a GPU does: a scaler, new in each fit, that changes as it trains."
    def before_fit(self):
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        self.learn.scaler.scale(torch.ones(1))

    def after_batch(self):
        if self.training:
            self.learn.scaler.update(self.learn.scaler.get_scale() + 1)


def test_a_scaler_goes_on_and_what_was_recorded_is_of_fastais_kind(tmp_path):
    expected = run(tmp_path, cbs=[Scales])
    run(tmp_path, 3, cbs=[Scales], path=tmp_path / "run.pt")
    learner = run(tmp_path, cbs=[Scales], path=tmp_path / "run.pt")
    assert learner.scaler.get_scale() == expected.scaler.get_scale() == 2 + 3 * len(learner.dls.train)
    kinds = [type(row) for row in [*expected.recorder.values, expected.final_record]]
    assert kinds == [type(row) for row in [*learner.recorder.values, learner.final_record]] and {*kinds} == {L}


class Counts(Callback):
    "Counts in NumPy's numbers."
    def __init__(self):
        self.whole, self.part, self.odd = np.int64(0), np.float32(0), np.bool_(False)

    def after_batch(self):
        self.whole, self.part, self.odd = self.whole + 1, self.part + np.float32(0.5), np.bool_(not self.odd)


def test_numbers_of_numpy_in_a_callback_are_kept(tmp_path, capsys):
    counts = [Counts() for _ in range(3)]
    run(tmp_path, cbs=[lambda: counts[0]])
    run(tmp_path, 3, cbs=[lambda: counts[1]], path=tmp_path / "run.pt")
    run(tmp_path, cbs=[lambda: counts[2]], path=tmp_path / "run.pt")
    ended = [(int(one.whole), float(one.part), bool(one.odd)) for one in counts]
    assert ended[2] == ended[0] != ended[1] and "cannot be kept" not in capsys.readouterr().out


class Draws(Callback):
    def after_batch(self):
        random.random()


def test_pythons_own_random_numbers_go_on(tmp_path, monkeypatch):
    expected, path = result(run(tmp_path, cbs=[Draws])), tmp_path / "run.pt"
    run(tmp_path, 3, cbs=[Draws], path=path)
    file = path.read_bytes()
    assert result(run(tmp_path, cbs=[Draws], path=path)) == expected
    path.write_bytes(file)
    monkeypatch.setattr(checkpoints.random, "setstate", lambda state: None)  # the control
    assert result(run(tmp_path, cbs=[Draws], path=path)) != expected


def test_without_the_random_numbers_the_run_would_differ(tmp_path, monkeypatch):
    expected = result(run(tmp_path))
    monkeypatch.setattr(checkpoints, "_set_rng_state", lambda *args: None)
    run(tmp_path, 3, path=tmp_path / "run.pt")
    assert result(run(tmp_path, path=tmp_path / "run.pt")) != expected


def refused(folder, path, match, make=make_learner, error=ValueError, **call):
    "The call is refused, and neither the learner nor the file is touched."
    learner = make(folder)
    before, file = numbers(learner.model.state_dict()), path.read_bytes()
    with pytest.raises(error, match=match):
        fine_tune(learner, **{**CALL, **call}, checkpoint=path)
    assert numbers(learner.model.state_dict()) == before and path.read_bytes() == file
    assert learner.opt is None and sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_another_plan_model_or_data_is_refused(tmp_path):
    path = tmp_path / "files" / "run.pt"
    path.parent.mkdir()
    run(tmp_path, 2, path=path)
    refused(tmp_path, path, "another plan", epochs=4)
    refused(tmp_path, path, "another plan", batchnorm="train")
    refused(tmp_path, path, "another (plan|model)", make=lambda folder: make_learner(folder, width=9))
    refused(tmp_path, path, "batches in an epoch", make=lambda folder: make_learner(folder, n=90))
    refused(tmp_path, path, "items", make=lambda folder: make_learner(folder, n=71))

    def other_body(folder):
        learner = make_learner(folder)
        learner.model[0][3] = nn.BatchNorm1d(8, affine=False)  # the same parameters, other buffers
        return learner
    refused(tmp_path, path, "another model.*0.3.running_mean", make=other_body)
    assert result(run(tmp_path, path=path)) == result(run(tmp_path))


def test_foreign_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "files" / "run.pt"
    path.parent.mkdir()
    run(tmp_path, 2, path=path)
    whole = path.read_bytes()
    for size in [0, 1, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(tmp_path, path, "not a whole checkpoint")
    path.write_text("a shopping list")
    refused(tmp_path, path, "not a whole checkpoint")
    torch.save({"weights": torch.zeros(3)}, path)
    refused(tmp_path, path, "not a checkpoint of")
    path.write_bytes(whole)
    assert result(run(tmp_path, path=path)) == result(run(tmp_path))


def test_paths_that_cannot_be_written(tmp_path):
    learner = make_learner(tmp_path)
    for path in [tmp_path, tmp_path / "missing" / "run.pt", Path("/proc/run.pt")]:
        with pytest.raises(OSError, match="is a folder|cannot write"):
            fine_tune(learner, 1, checkpoint=path)
    assert learner.opt is None


@pytest.mark.parametrize("value", [-float("inf"), float("nan")])
def test_a_mask_of_infinities_is_no_broken_number(tmp_path, capsys, value):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(4, 8)
            self.register_buffer("mask", torch.full((2, 2), value))

    def make(folder):
        learner = make_learner(folder)
        learner.model[0][0] = Masked()
        return learner
    path, early = tmp_path / "run.pt", [lambda: EarlyStoppingCallback("accuracy", min_delta=0.5, patience=1)]
    run(tmp_path, make=make, cbs=early, path=path, epochs=3, freeze_epochs=0)
    said = "0.0.mask holds values that are not finite" in capsys.readouterr().out
    assert said == (value != value)
    assert read_checkpoint(path)["epochs"] == (1 if said else 3)  # the phase is over, unless that was not written


def test_the_file_says_where_it_stands(tmp_path):
    run(tmp_path, 3, path=tmp_path / "run.pt")
    state = read_checkpoint(tmp_path / "run.pt")
    assert (state["phase"], state["epochs"]) == (1, 1) and Plan.from_json(state["plan"]).epochs == 5
    assert set(state["versions"]) == {"python", "torch", "fastai", "ft_tutorial"}


def killed_run(folder, path):
    "In a child process: the run, and its result in a file."
    learner = run(folder, path=path, epochs=8, freeze_epochs=4, cbs=CALLBACKS["accumulation over the end of an epoch"])
    (folder / "part").write_bytes(result(learner))
    (folder / "part").rename(folder / "result")


def start(folder, path):
    pid = os.fork()
    if not pid:
        sys.stdout = open(folder / "said", "a")
        try:
            killed_run(folder, path)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def has_begun(path):
    "Is there something in the file? The probe before a run leaves it empty."
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def kill_loop(folder, kills=24, seed=0):
    "Kill children at random moments, and others as soon as they are seen writing, until `kills` are dead and one ends."
    folder, chance = Path(folder), random.Random(seed)
    begin = time.time()
    os.waitpid(start(folder, None), 0)
    length = time.time() - begin
    expected, path, temporary = (folder / "result").read_bytes(), folder / "run.pt", checkpoints._beside(folder / "run.pt", "tmp")
    (folder / "result").unlink()
    counts = dict(kills=0, writing=0, runs=0, same=0)
    window = length / 2  # grows while children die before they have come further, as on a busy machine
    while (counts["kills"] < kills or counts["writing"] < 5) and time.time() < begin + 300:
        temporary.unlink(missing_ok=True)
        before = path.read_bytes() if path.exists() else None
        pid, writing = start(folder, path), chance.random() < 0.5
        end, ended = time.time() + chance.uniform(0, window), 0
        while not ended and (time.time() < end or (writing and not has_begun(temporary))):
            ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) or not status, "the run failed"
        counts["kills"] += os.WIFSIGNALED(status)
        counts["writing"] += os.WIFSIGNALED(status) and has_begun(temporary)
        window = window * 1.2 if path.exists() and path.read_bytes() == before or not path.exists() else length / 2
        if (folder / "result").exists():  # it had ended: begin another run
            counts["runs"] += 1
            counts["same"] += (folder / "result").read_bytes() == expected
            (folder / "result").unlink()
            path.unlink()
    os.waitpid(start(folder, path), 0)
    counts["runs"] += 1
    counts["same"] += (folder / "result").read_bytes() == expected
    print(json.dumps(counts | dict(seconds=time.time() - begin)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")
def test_killed(tmp_path):
    done = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= 20 and counts["writing"] >= 5
    assert counts["runs"] >= 1 and counts["same"] == counts["runs"]
    assert "Going on from" in (tmp_path / "said").read_text()


if __name__ == "__main__":
    kill_loop(sys.argv[1])
