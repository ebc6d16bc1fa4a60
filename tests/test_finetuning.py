"""`fine_tune` against fastai's own, against its plan, interrupted anywhere, and with what people use beside it.

    accelerate launch ... tests/test_finetuning.py FOLDER    what each process of test_two_processes does
"""
import copy
import json
import os
import pickle
import random
import socket
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import CancelFitException, Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import fine_tune as fastai_fine_tune  # noqa: F401 (method)
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner, mk_metric
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy, error_rate
from fastai.optimizer import SGD, Adam, OptimWrapper
from fastai.torch_core import params, rank_distrib, set_seed
from fastcore.basics import noop
from fastcore.foundation import L
from torch import nn

from ft_tutorial import caching, checkpoints
from ft_tutorial.changing import _restore
from ft_tutorial.finetuning import fine_tune
from ft_tutorial.freezing import _HoldStill, freeze, frozen, split_by, status, unfreeze
from ft_tutorial.plans import STRATEGIES, Phase, Plan, plan

torch.set_num_threads(1)
root = Path(__file__).parents[1]


def quiet(learner):
    learner.remove_cb(learner.progress)
    learner.logger = noop
    return learner


def body_and_head(model):
    return [params(model[0]), params(model[1])]


def make_items(n=64):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return list(zip(x, (x[:, 0] > 0).long()))


def plain_learner(folder, items=None, bs=16, splitter=body_and_head, **kwargs):
    set_seed(0)
    items, shuffle = (make_items(), True) if items is None else (items, False)
    dls = DataLoaders.from_dsets(items, items, bs=bs, num_workers=0, device="cpu", shuffle=(shuffle, False))
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
    return quiet(Learner(dls, nn.Sequential(body, nn.Linear(8, 3)), loss_func=CrossEntropyLossFlat(),
                         splitter=splitter, metrics=accuracy, path=folder, **kwargs))


def picture_dls(n=24, size=32):
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    items = list(zip(x, (x[:, 0].mean((1, 2)) > 0).long()))
    dls = DataLoaders.from_dsets(items, items, bs=8, num_workers=0, device="cpu")
    dls.c = 2
    return dls


def vision(folder, arch, **kwargs):
    from fastai.vision.learner import vision_learner
    set_seed(0)
    return quiet(vision_learner(picture_dls(), arch, pretrained=False, n_out=2, normalize=False, path=folder,
                                loss_func=CrossEntropyLossFlat(), metrics=accuracy, **kwargs))


def torchvision_learner(folder):
    from torchvision.models import shufflenet_v2_x0_5
    return vision(folder, shufflenet_v2_x0_5, cut=-1, splitter=body_and_head)


def timm_learner(folder):
    return vision(folder, "test_resnet")


def text_learner(folder):
    from fastai.text.learner import text_classifier_learner
    from fastai.text.models.awdlstm import AWD_LSTM
    set_seed(0)
    x = torch.randint(2, 20, (32, 12), generator=torch.Generator().manual_seed(0))
    items = list(zip(x, (x[:, 0] > 10).long()))
    dls = DataLoaders.from_dsets(items, items, bs=8, num_workers=0, device="cpu")
    dls.c, dls.vocab = 2, L([str(i) for i in range(20)], ["no", "yes"])
    config = dict(emb_sz=8, n_hid=8, n_layers=2, pad_token=1, bidir=False, output_p=0.4, hidden_p=0.3, input_p=0.4,
                  embed_p=0.05, weight_p=0.5)
    return quiet(text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=config, n_out=2, seq_len=8,
                                         loss_func=CrossEntropyLossFlat(), metrics=accuracy, path=folder))


LEARNERS = dict(plain=plain_learner, torchvision=torchvision_learner, timm=timm_learner, text=text_learner)


def numbers(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return [(str(key), numbers(part)) for key, part in value.items()]
    return [numbers(part) for part in value] if hasattr(value, "__iter__") and not isinstance(value, str) else value


def bits(value):
    "A tree of what can be compared exactly and quickly: tensors as their bytes."
    if isinstance(value, torch.Tensor):
        return value.shape, value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return [(str(key), bits(part)) for key, part in value.items()]
    return [bits(part) for part in value] if isinstance(value, (list, tuple, L)) else value


def result(learner):
    recorder = learner.recorder
    return bits([learner.model.state_dict(), learner.opt.state_dict(), recorder.losses, recorder.values, recorder.lrs,
                 recorder.hps, torch.get_rng_state(), learner.dls.train.rng.getstate(), learner.opt.frozen_idx])


def trained(make, folder, *trainings, seed=1):
    learner = make(folder)
    set_seed(seed)
    for train in trainings:
        train(learner)
    return result(learner)


ARGUMENTS = [dict(epochs=1), dict(epochs=3, lr_mult=7), dict(epochs=2, freeze_epochs=3, base_lr=1e-2),
             dict(epochs=2, freeze_epochs=0), dict(epochs=1, pct_start=0.5, div=9.0, div_final=1e3, wd=0.1)]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("make", [plain_learner, timm_learner])
def test_equals_fastai_bit_for_bit(tmp_path, make, arguments):
    expected = trained(make, tmp_path, lambda learner: learner.fine_tune(**arguments))
    assert trained(make, tmp_path, lambda learner: fine_tune(learner, **arguments, batchnorm="train")) == expected
    assert trained(make, tmp_path, lambda learner: fine_tune(learner, **arguments)) != expected  # the control


TWICE = {
    "no weight decay": dict(wd=0.0),
    "AdamW of PyTorch": dict(opt_func=lambda params, **kw: OptimWrapper(params, torch.optim.AdamW, **kw)),
}


@pytest.mark.parametrize("kwargs", TWICE)
def test_two_calls_in_a_row_where_fastai_is_right(tmp_path, kwargs):
    def make(folder):
        return plain_learner(folder, **TWICE[kwargs])
    expected = trained(make, tmp_path, *[lambda learner: learner.fine_tune(2, freeze_epochs=2)] * 2)
    assert trained(make, tmp_path, *[lambda learner: fine_tune(learner, 2, freeze_epochs=2, batchnorm="train")] * 2) == expected


def test_a_second_call_of_fastai_moves_what_is_frozen(tmp_path):
    learner, other = plain_learner(tmp_path), plain_learner(tmp_path)
    moved = []
    for train in [lambda **kw: learner.fine_tune(0, **kw), lambda **kw: fine_tune(other, 0, batchnorm="train", **kw)]:
        the = other if moved else learner
        the.fit_one_cycle(1)
        before = the.model[0][0].weight.clone()
        train(freeze_epochs=2, base_lr=1e-2)
        moved.append(not the.model[0][0].weight.equal(before))
    assert moved == [True, False]


class Keep(Callback):
    def __init__(self):
        self.rates, self.momenta = [], []

    def after_batch(self):
        if self.training:
            self.rates.append([group["lr"] for group in self.opt.hypers])
            self.momenta.append([group["mom"] for group in self.opt.hypers])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", LEARNERS)
def test_recorded_rates_are_the_plans(tmp_path, make, strategy):
    learner, keep = LEARNERS[make](tmp_path), Keep()
    planned = plan(learner, 2, 1e-2, strategy, lr_mult=13)
    fine_tune(learner, planned, cbs=keep)
    assert np.abs(np.array(keep.rates) - planned.rates).max() <= 1e-12
    assert np.abs(np.array(keep.momenta) - planned.momenta[:, None]).max() <= 1e-12
    assert np.abs(np.array(keep.rates) - plan(learner, 2, 1e-2, strategy, lr_mult=13, div=6).rates).max() > 1e-12


@pytest.mark.parametrize("strategy", [*STRATEGIES, "own"])
def test_only_what_is_planned_moves(tmp_path, strategy):
    splitter = split_by(r"0\.[01]", r"0\.3", "1")
    learner = plain_learner(tmp_path, splitter=splitter)
    own = [Phase(1, 1e-2, [r"0\.0", r"1\.bias"]), Phase(1, 1e-2, learner.model[1])]
    planned = plan(learner, own) if strategy == "own" else plan(learner, 1, 1e-2, strategy)
    for index, phase in enumerate(planned.phases):
        learner = plain_learner(tmp_path, splitter=splitter)
        before = copy.deepcopy(learner.model.state_dict())
        fine_tune(learner, [phase])
        moves = [not learner.model.state_dict()[name].equal(value) for name, value in before.items()]
        sizes = [value.numel() for name, value in before.items() if value.is_floating_point() and "running" not in name]
        moved = [m for m, name in zip(moves, before) if "running" not in name and "num_batches" not in name]
        assert sum(s for s, m in zip(sizes, moved) if m) == sum(planned.trainable[index])
        assert not any(m for m, name in zip(moves, before) if "running" in name)
        assert all(p.requires_grad for p in learner.model.parameters())


def test_numbers_of_numpy_are_numbers(tmp_path):
    learner = plain_learner(tmp_path)
    planned = plan(learner, np.int64(2), np.float32(1e-2), freeze_epochs=np.int32(1), pct_start=np.float32(0.25),
                   wd=np.float32(0.25), moms=np.array([0.9, 0.8, 0.9]))
    assert planned == plan(learner, 2, float(np.float32(1e-2)), pct_start=0.25, wd=0.25, moms=(0.9, 0.8, 0.9))
    assert Plan.from_json(planned.to_json()) == planned
    fine_tune(learner, np.int64(1), wd=np.float32(0.01), checkpoint=tmp_path / "run.pt")


def test_true_is_no_number_and_a_list_is_a_tuple(tmp_path):
    learner = plain_learner(tmp_path)
    for name in ("base_lr", "lr_mult", "pct_start", "div", "div_final", "wd", "freeze_epochs"):
        with pytest.raises(TypeError, match=f"{name.removeprefix('base_')} must be a (whole )?number, not True"):
            plan(learner, 1, **{name: True})
    listed, tupled = Phase(1, 1e-3, [r"0\.0", r"0\.1"]), Phase(1, 1e-3, (r"0\.0", r"0\.1"))
    assert listed == tupled and hash(listed) == hash(tupled) and listed != Phase(1, 1e-3, r"0\.0")
    assert plan(learner, [listed]).phases[0].frozen == (r"0\.0", r"0\.1")


def test_the_only_group_is_called_all(tmp_path):
    learner = plain_learner(tmp_path, splitter=params)
    assert {"all"} == {"all", "head", "body"} & {*plan(learner, 1, strategy="all_at_once").table[0]}
    assert {"body", "head"} == {"all", "head", "body"} & {*plan(plain_learner(tmp_path), 1).table[0]}


def test_the_picture_says_what_trains_and_for_how_long(tmp_path):
    learner = plain_learner(tmp_path, splitter=split_by(r"0\.0", r"0\.[13]", "1"))
    planned = plan(learner, 2, strategy="gradual")
    figure = planned.plot()
    assert figure.axes[0].get_title() == "the head for 1 epoch, then group 1 + head for 1 epoch, then everything for 2 epochs"
    for ax in figure.axes:  # and every step is inside the picture
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        curves = [line for line in ax.lines if len(line.get_xdata()) == planned.steps or len(line.get_xdata()) == 2 * planned.steps]
        assert sum(len(line.get_xdata()) for line in curves) == 3 * planned.epochs * planned.steps
        assert all(left < x < right and low < y < high for line in curves for x, y in zip(*line.get_data()))


def test_no_momentum_and_no_rise(tmp_path):
    learner, keep = plain_learner(tmp_path, opt_func=SGD, moms=(0.0, 0.0, 0.0)), Keep()
    planned = plan(learner, 1, freeze_epochs=0, pct_start=0.0)
    fine_tune(learner, planned, cbs=keep)
    assert np.array_equal(keep.rates, planned.rates) and not np.any(keep.momenta)
    assert keep.rates[0][-1] == planned.phases[0].lr[-1]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(make_items())


def test_a_loader_without_batches_is_refused(tmp_path):
    learner = plain_learner(tmp_path, bs=65)
    for call in (plan, fine_tune):
        with pytest.raises(ValueError, match="gives no batch.*drop_last"):
            call(learner, 1)
    stream = torch.utils.data.DataLoader(Stream(), batch_size=16)
    learner.dls = DataLoaders(stream, learner.dls.valid)
    with pytest.raises(TypeError, match="training loader, a DataLoader, .*__len__"):
        fine_tune(learner, 1)
    assert learner.opt is None


@pytest.mark.parametrize("cache", ["lots", 0.5, ""])
def test_a_cache_of_no_size_is_refused(tmp_path, cache):
    learner = plain_learner(tmp_path)
    for call in (plan, fine_tune):
        with pytest.raises((TypeError, ValueError), match="'2GB'"):
            call(learner, 1, cache=cache)
    assert learner.opt is None


class Break(Callback):
    "Raises `error` at the `turn`-th time of `event`."
    def __init__(self, event, turn, error):
        self.turn, self.error = turn, error
        setattr(self, event, self.happen)

    def happen(self):
        self.turn -= 1
        if self.turn == 0:
            raise self.error("stopped by the test")


def standing(learner):
    "Frozen state, callbacks, modes and wrappers."
    model = learner.model
    return [[p.requires_grad for p in model.parameters()], [id(cb) for cb in learner.cbs], [m.training for m in model.modules()],
            [any(isinstance(h, _HoldStill) for h in m._forward_pre_hooks.values()) for m in model.modules()],
            id(model), learner.logger, learner.training, learner.splitter, list(map(id, learner.dls.loaders)),
            learner.opt.frozen_idx if learner.opt else 0, torch.is_autocast_enabled("cpu"), "_do_fit" in vars(learner),
            [list(m._forward_hooks) for m in model.modules()], len(model._state_dict_hooks), "forward" in vars(model)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("event, turn", [("before_fit", 1), ("before_epoch", 2), ("before_batch", 3), ("after_pred", 9),
                                         ("after_backward", 12), ("after_epoch", 1), ("before_validate", 3), ("after_fit", 2)])
@pytest.mark.parametrize("frozen_before", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_interrupted_anywhere(tmp_path, capsys, error, event, turn, frozen_before, cache):
    learner = plain_learner(tmp_path, cbs=[CpuPrecision()])
    learner.model[0].eval()
    if frozen_before:
        freeze(learner, r"0\.0|1\.bias")
    before, weight = standing(learner), learner.model[1].weight.clone()
    with pytest.raises(error):
        fine_tune(learner, 2, freeze_epochs=2, cache=cache, cbs=Break(event, turn, error))
    assert standing(learner) == before
    said, begun = capsys.readouterr().out, (event, turn) != ("before_fit", 1)
    assert ("What was trained so far is kept" in said) == begun
    assert not learner.model[1].weight.equal(weight) == begun
    learner.fit_one_cycle(1)


@pytest.mark.parametrize("frozen_before", [False, True])
@pytest.mark.parametrize("module, call, error", [
    ("finetuning", lambda learner: fine_tune(learner, 2, cbs=Break("before_batch", 1, RuntimeError)), RuntimeError),
    ("plans", lambda learner: plan(learner, 1, cache=True), None)])
def test_ctrl_c_while_all_is_put_back(tmp_path, monkeypatch, module, call, error, frozen_before):
    "The control: without Ctrl-C, the same call puts the same back."
    learner = plain_learner(tmp_path)
    learner.create_opt()
    learner.model[0].eval()
    if frozen_before:
        freeze(learner, r"0\.0|1\.bias")
    before, came = standing(learner), []
    with pytest.raises(error) if error else nullcontext():
        call(learner)
    assert standing(learner) == before

    def ctrl_c_first(*args):
        came.append(standing(learner))
        if len(came) == 1:
            raise KeyboardInterrupt
        _restore(*args)
    monkeypatch.setattr(f"ft_tutorial.{module}._restore", ctrl_c_first)
    with pytest.raises(KeyboardInterrupt):
        call(learner)
    assert len(came) == 2 and came[0] != before == standing(learner)


class CpuPrecision(MixedPrecision):
    "fastai's mixed precision, on the CPU: the original asks for CUDA, and does nothing without it."
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16)


PRECISIONS = {"fp16 as it runs without CUDA": lambda: MixedPrecision(),
              "bf16 as it runs without CUDA": lambda: MixedPrecision(amp_mode="bf16"),
              "bf16 on the CPU": lambda: CpuPrecision(amp_mode="bf16")}


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_mixed_precision(tmp_path, precision):
    def make(folder):
        return plain_learner(folder, cbs=PRECISIONS[precision]())
    expected = trained(make, tmp_path, lambda learner: learner.fine_tune(2))
    assert trained(make, tmp_path, lambda learner: fine_tune(learner, 2, batchnorm="train")) == expected
    assert (trained(plain_learner, tmp_path, lambda learner: learner.fine_tune(2)) == expected) == ("without" in precision)


def test_gradient_accumulation(tmp_path):
    def make(folder):
        return plain_learner(folder, cbs=GradientAccumulation(24))
    expected = trained(make, tmp_path, lambda learner: learner.fine_tune(2))
    assert trained(make, tmp_path, lambda learner: fine_tune(learner, 2, batchnorm="train")) == expected
    assert trained(plain_learner, tmp_path, lambda learner: learner.fine_tune(2)) != expected


class Stop(Callback):
    def __init__(self, epochs):
        self.epochs = epochs

    def after_batch(self):
        if self.epochs <= 0 and self.training:
            raise KeyboardInterrupt

    def after_epoch(self):
        self.epochs -= 1


def stopped_and_resumed(learner, again, path, whole, **call):
    try:
        fine_tune(learner, **call, checkpoint=path, cbs=Stop(whole))
    except KeyboardInterrupt:
        pass
    fine_tune(again, **call, checkpoint=path)
    return again


@pytest.mark.parametrize("make", LEARNERS)
@pytest.mark.parametrize("strategy", ["head_then_all", "gradual"])
def test_every_kind_of_learner_is_resumed(tmp_path, make, strategy):
    make, call = LEARNERS[make], dict(epochs=1, freeze_epochs=1, strategy=strategy)
    expected = make(tmp_path)
    fine_tune(expected, **call)
    for whole in (1, 2):
        learner = stopped_and_resumed(make(tmp_path), make(tmp_path), tmp_path / f"{whole}.pt", whole, **call)
        assert result(learner) == result(expected)


def torch_loaders(make_sampler, n=64):
    items = make_items(n)
    train = torch.utils.data.DataLoader(items, batch_size=16, sampler=make_sampler(items, torch.Generator().manual_seed(4)))
    return DataLoaders(train, torch.utils.data.DataLoader(items[:16], batch_size=16))


class Noise(Callback):
    "Adds noise to gradients, from a generator of its own."
    def __init__(self, kind):
        self.kind = kind
        self.rng = dict(torch=torch.Generator().manual_seed(3), python=random.Random(3),
                        numpy=np.random.default_rng(3))[kind]

    def before_step(self):
        draw = dict(torch=lambda: torch.rand(1, generator=self.rng), python=lambda: self.rng.random(),
                    numpy=lambda: self.rng.random())[self.kind]
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad += 0.1 * float(draw())


class Counter(Callback):
    "Divides gradients by a count in an array."
    def __init__(self):
        self.n = np.zeros(1)

    def before_step(self):
        self.n += 1
        for p in self.model.parameters():
            if p.grad is not None:
                p.grad /= float(self.n[0])


class Average(Callback):
    "Pulls the head towards its own average."
    order = 50

    def __init__(self, early=True):
        self.early, self.held = early, None

    def before_fit(self):
        if self.early and self.held is None:
            self.held = copy.deepcopy(self.model[1])

    def after_epoch(self):
        self.held = self.held or copy.deepcopy(self.model[1])
        with torch.no_grad():
            for a, p in zip(self.held.parameters(), self.model[1].parameters()):
                p.lerp_(a.lerp_(p, 0.3), 0.5)


class MovingLoss(nn.Module):
    "A loss divided by its own running mean."
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, output, y):
        loss = nn.functional.cross_entropy(output, y)
        self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss / self.mean


class Growing(nn.Linear):
    "Its output is scaled by a buffer that is not in the state dict."
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.scale.mul_(1.05)
        return super().forward(x) * self.scale


def changed(folder, **parts):
    learner = plain_learner(folder)
    for name, part in parts.items():
        if name == "head":
            learner.model[1] = part
        else:
            setattr(learner, name, part)
    return learner


def random_sampler(items, generator):
    return torch.utils.data.RandomSampler(items, generator=generator)


def weighted_sampler(items, generator):
    return torch.utils.data.WeightedRandomSampler([1.0] * len(items), len(items), generator=generator)


HIDDEN = {  # where a run keeps a state of its own
    "PyTorch's generator": (plain_learner, lambda: Noise("torch")),
    "Python's generator": (plain_learner, lambda: Noise("python")),
    "NumPy's generator": (plain_learner, lambda: Noise("numpy")),
    "an array": (plain_learner, Counter),
    "a module": (plain_learner, Average),
    "a sampler": (lambda folder: changed(folder, dls=torch_loaders(random_sampler)), None),
    "a weighted sampler": (lambda folder: changed(folder, dls=torch_loaders(weighted_sampler)), None),
    "a loss": (lambda folder: changed(folder, loss_func=MovingLoss()), None),
    "a buffer": (lambda folder: changed(folder, head=Growing(8, 3)), None),
}


@pytest.mark.parametrize("where", HIDDEN)
def test_hidden_states_are_kept(tmp_path, capsys, where):
    def weights(path=None, stop=None):
        make, callback = HIDDEN[where]
        learner, cbs = make(tmp_path), [callback()] if callback else []
        try:
            fine_tune(learner, 2, freeze_epochs=2, base_lr=1e-2, checkpoint=path, cbs=cbs + ([Stop(stop)] if stop else []))
        except KeyboardInterrupt:
            pass
        return bits(learner.model.state_dict())
    expected = weights()
    assert weights(tmp_path / "run.pt", 3) != expected  # the control: the state matters
    assert weights(tmp_path / "run.pt") == expected
    assert "cannot be" not in capsys.readouterr().out


def test_what_a_callback_loses_is_said(tmp_path, capsys):
    class Holder(Callback):
        def __init__(self):
            self.seen, self.function, self.kind = {1}, len, int

    learner, again = plain_learner(tmp_path), plain_learner(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(learner, 2, checkpoint=tmp_path / "run.pt", cbs=[Holder(), Average(early=False), Stop(2)])
    said = capsys.readouterr().out
    assert said.count("Holder: its attribute seen, a set, cannot be kept") == 1
    assert "function" not in said and "kind" not in said and "learn," not in said
    fine_tune(again, 2, checkpoint=tmp_path / "run.pt", cbs=[Average(early=False), Counter()])
    said = capsys.readouterr().out
    assert "Average: what its attribute held held cannot be put back" in said
    assert "before, but not now: Holder, Stop" in said and "now, but not before: Counter" in said


def adamw(params, **kwargs):
    return OptimWrapper(params, torch.optim.AdamW, **kwargs)


@pytest.mark.parametrize("what, first, second", [
    ("optimizer", dict(opt_func=Adam), dict(opt_func=SGD)),
    ("optimizer", dict(opt_func=SGD), dict(opt_func=Adam)),
    ("optimizer", dict(opt_func=adamw), dict(opt_func=Adam)),
    ("optimizer", dict(opt_func=adamw), dict(opt_func=lambda p, **kw: OptimWrapper(p, torch.optim.SGD, **kw))),
    ("metrics", dict(), dict(metrics=error_rate)),
    ("metrics", dict(), dict(metrics=[])),
    ("items in a batch", dict(bs=16), dict(bs=15)),
    ("loss function", dict(), dict(loss_func=MovingLoss())),
    ("generators", dict(dls=torch_loaders(random_sampler)),
     dict(dls=torch_loaders(lambda items, generator: random_sampler(items, None))))])
def test_another_run_is_refused(tmp_path, what, first, second):
    def make(dls=None, opt_func=Adam, bs=16, **parts):
        learner = plain_learner(tmp_path, opt_func=opt_func, bs=bs)
        for name, part in (parts | (dict(dls=dls) if dls else {})).items():
            setattr(learner, name, L(part).map(mk_metric) if name == "metrics" else part)
        return learner
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(make(**first), 2, checkpoint=path, cbs=Stop(2))
    learner, file = make(**second), path.read_bytes()
    before = bits(learner.model.state_dict())
    with pytest.raises(ValueError, match=f"{what}.*Nothing was changed"):
        fine_tune(learner, 2, checkpoint=path)
    assert bits(learner.model.state_dict()) == before and path.read_bytes() == file and learner.opt is None
    fine_tune(make(**first), 2, checkpoint=path)


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(tmp_path, capsys):
    class Spoil(Callback):
        def before_step(self):
            if self.train_iter == 6:
                self.model[1].weight.grad.fill_(float("nan"))

    path = tmp_path / "run.pt"
    fine_tune(plain_learner(tmp_path), 2, freeze_epochs=3, checkpoint=path, cbs=[Spoil(), TerminateOnNaNCallback()])
    state = checkpoints.read_checkpoint(path)
    assert state["phase"] == 0 and state["epochs"] == 1 and state["model"]["1.weight"].isfinite().all()
    assert "not finite" in capsys.readouterr().out


def test_a_phase_that_is_cancelled_before_it_begins_is_not_over(tmp_path):
    class Cancel(Callback):
        def before_fit(self):
            raise CancelFitException

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(plain_learner(tmp_path), 2, checkpoint=path, cbs=Stop(2))
    before = path.read_bytes()
    fine_tune(plain_learner(tmp_path), 2, checkpoint=path, cbs=Cancel())
    assert path.read_bytes() == before


def test_what_cannot_be_a_checkpoint_is_refused_before_training(tmp_path):
    learner = plain_learner(tmp_path)
    with pytest.raises(ValueError, match="empty text"):
        fine_tune(learner, 1, checkpoint="")
    for given in (True, 3):
        with pytest.raises(TypeError, match="path of a file"):
            fine_tune(learner, 1, checkpoint=given)
    learner.remove_cb(learner.recorder)
    with pytest.raises(ValueError, match="Recorder"):
        fine_tune(learner, 1, checkpoint=tmp_path / "run.pt")
    assert learner.opt is None


def test_the_checkpoint_stays_where_it_was_asked_for(tmp_path, monkeypatch):
    class Go(Callback):
        def before_epoch(self):
            os.chdir(tmp_path / "other")

    for name in ("here", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("run.pt.tmp").write_text("the user's own")
    Path("link.pt").symlink_to("run.pt")
    fine_tune(plain_learner(tmp_path), 1, checkpoint="link.pt", cbs=Go())
    here = tmp_path / "here"
    assert sorted(os.listdir(here)) == ["link.pt", "run.pt", "run.pt.tmp"] and not os.listdir(tmp_path / "other")
    assert (here / "link.pt").is_symlink() and (here / "run.pt.tmp").read_text() == "the user's own"


def test_callbacks_of_a_generator_are_there_in_all_phases(tmp_path):
    fits = []

    class Seen(Callback):
        def before_fit(self):
            fits.append(1)
    fine_tune(plain_learner(tmp_path), 1, cbs=(callback for callback in [Seen()]))
    assert len(fits) == 2


def swap_rows(learner):
    weight = learner.model[0][0].weight.data
    weight.copy_(weight.flip(0))


def swap_pairs(learner):
    "Of a weight of ones: what adds up the same with the numbers of the places, too."
    weight = learner.model[0][3].weight.data.view(-1)
    weight[:4] = -weight[:4]


def replace_dataset(learner):
    learner.dls.train.dataset = make_items(65)[:64]


def replace_module(learner):
    learner.model[0][2] = nn.Tanh()


def add_hook(learner):
    learner.model[0][0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 100,))


def add_transform(learner):
    learner.dls.train.after_item = lambda item: (item[0] * 100, item[1])


@pytest.mark.parametrize("change, match", [
    (swap_rows, "0.0.weight moved"), (swap_pairs, "0.3.weight moved"), (replace_module, "0.2 of the body was replaced"),
    (replace_dataset, "the dataset or the transforms"), (add_transform, "the dataset or the transforms"),
    (add_hook, "0.0.*has a forward pre-hook")])
def test_what_makes_kept_features_stale_is_noticed(tmp_path, change, match):
    learner = plain_learner(tmp_path)
    learner.model[0][3].weight.data.fill_(1).view(-1)[[1, 2]] = -1
    freeze(learner, -1)
    with caching.cached(learner):
        learner.fit(1)
        change(learner)
        with pytest.raises(ValueError, match=match):
            learner.fit(1)


def test_a_hook_of_before_the_block_is_refused(tmp_path):
    learner = plain_learner(tmp_path)
    freeze(learner, -1)
    with caching.cached(learner):  # what holds norm layers still is no obstacle
        learner.fit(1)
    add_hook(learner)
    with pytest.raises(ValueError, match="forward pre-hook"), caching.cached(learner):
        pass


def test_the_learner_in_a_block_before_the_first_fit(tmp_path):
    learner = plain_learner(tmp_path)
    freeze(learner, -1)
    x = torch.randn(3, 4)
    expected = learner.model.eval()(x)
    with caching.cached(learner):
        assert learner.model.eval()(x).equal(expected)
        with pytest.raises(ValueError, match="leave it, add them"):
            learner.dls.train.after_batch.add(noop)
        learner.fit(1)


@pytest.mark.parametrize("make", ["plain", "timm", "torchvision"])
def test_cache_trains_the_same_head(tmp_path, make):
    make, call = LEARNERS[make], dict(epochs=1, freeze_epochs=3, base_lr=1e-2)
    learners = []
    for cache in [False, True, "1KB"]:
        learners.append(make(tmp_path))
        fine_tune(learners[-1], **call, strategy="head_only", cache=cache)
    usual, memory, disk = learners
    for a, b in zip(usual.model.state_dict().values(), memory.model.state_dict().values()):
        assert (a - b).abs().max() <= 1e-5
    assert np.allclose(usual.recorder.losses, memory.recorder.losses, atol=1e-6)
    assert result(disk) == result(memory)


@pytest.mark.parametrize("whole", [1, 2, 3, 4])
def test_a_cached_run_is_resumed(tmp_path, whole):
    call = dict(epochs=2, freeze_epochs=3, cache=True)
    expected = plain_learner(tmp_path)
    fine_tune(expected, **call)
    learner = stopped_and_resumed(plain_learner(tmp_path), plain_learner(tmp_path), tmp_path / "run.pt", whole, **call)
    assert result(learner) == result(expected)


def test_cache_is_refused_where_nothing_can_be_cached(tmp_path):
    learner = plain_learner(tmp_path)
    before = standing(learner)
    for call in [dict(strategy="all_at_once"), dict(batchnorm="train")]:
        with pytest.raises(ValueError, match="cache needs a phase"):
            fine_tune(learner, 1, cache=True, **call)
    assert standing(learner) == before


def test_the_plan_says_what_the_cache_will_take(tmp_path):
    learner = plain_learner(tmp_path)
    learner.fit_one_cycle(1)
    before = result(learner), standing(learner), [p.grad.sum() for p in learner.model.parameters()]
    assert plan(learner, 1, cache=True).cache == 2 * 64 * (8 * 4 + 8)  # eight float32 and a label for each item
    assert before == (result(learner), standing(learner), [p.grad.sum() for p in learner.model.parameters()])


def test_a_body_that_the_optimizer_does_not_hold_stays_frozen(tmp_path):
    set_seed(0)
    learner = plain_learner(tmp_path)
    learner.model[0].requires_grad_(False)
    learner = quiet(Learner(learner.dls, learner.model, loss_func=learner.loss_func, path=tmp_path))
    with pytest.raises(ValueError, match="optimizer does not hold"):
        fine_tune(learner, 1, strategy="all_at_once")
    before = learner.model[0][0].weight.clone()
    fine_tune(learner, [Phase(1, 1e-2, r"0\.")])
    assert learner.model[0][0].weight.equal(before) and learner.model[1].weight.requires_grad


def interleaved(items, bs):
    "The order in which two processes read `items`, each `bs` at a time, as one process reads it in batches of 2 `bs`."
    halves = items[:len(items) // 2], items[len(items) // 2:]
    return [item for i in range(0, len(halves[0]), bs) for half in halves for item in half[i:i + bs]]


def process(folder):
    "What each of two processes does; the results go to a file of its own."
    from fastai.distributed import teardown_distrib  # gives Learner distrib_ctx, too
    folder, found, written = Path(folder), {}, []
    write = checkpoints.write_checkpoint
    checkpoints.write_checkpoint = lambda path, state: written.append(1) or write(path, state)
    call = dict(epochs=2, base_lr=1e-2)
    for name, kwargs in [("still", {}), ("moving", dict(batchnorm="train")),
                                  ("kept", dict(checkpoint=folder / "run.pt")),
                                  ("stopped", dict(checkpoint=folder / "stopped.pt", cbs=Stop(2))),
                                  ("resumed", dict(checkpoint=folder / "stopped.pt"))]:
        items = None if "run" in str(kwargs) or "stopped" in str(kwargs) else make_items()
        learner = plain_learner(folder, items, bs=8)
        set_seed(rank_distrib())  # other random numbers in each process
        with learner.distrib_ctx(in_notebook=False, sync_bn=False):
            try:
                fine_tune(learner, **call, **kwargs)
            except KeyboardInterrupt:
                found["stopped as"] = type(learner.model).__name__
        found[name] = numbers([learner.model.state_dict(), learner.recorder.values])
    found["written"] = len(written)
    (folder / f"{rank_distrib()}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    teardown_distrib()
    sys.stdout.flush()
    os._exit(0)  # all is said: the interpreter's own end can meet a thread of torch.distributed that has not ended


def launch(*arguments):
    "Two processes. With --cpu, accelerate would start only one; --multi_gpu starts two, also without any GPU."
    command = [Path(sys.executable).parent / "accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines",
               "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=root,
                          env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"})
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")


@needs_accelerate
def test_two_processes(tmp_path):
    said = launch(__file__, tmp_path)
    first, second = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    learner = plain_learner(tmp_path, interleaved(make_items(), 8), bs=16)
    fine_tune(learner, 2, base_lr=1e-2)
    weights = {name: value.tolist() for name, value in learner.model.state_dict().items()}

    def close(found):
        return all(np.allclose(value, weights[name], atol=1e-5) for name, value in found[0])
    assert first["still"] == second["still"] and close(first["still"])
    assert first["moving"] == second["moving"] and not close(first["moving"])  # the control: each has its own statistics
    assert first["kept"] == second["kept"] == first["resumed"] == second["resumed"] != first["stopped"]
    assert (first["written"], second["written"]) == (3 + 2 + 1, 0)
    assert first["stopped as"] == "Sequential"
    assert said.count("Stopped after 2 of 3 epochs") == said.count("Going on from") == 1


@needs_accelerate
def test_the_example(tmp_path):
    said = launch("examples/distributed.py", "--epochs", "1", "--checkpoint", tmp_path / "run.pt")
    assert "2 processes, the same weights in all" in said
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


class Wrapper(Callback):
    "Does to a model what fastai's DistributedTrainer does: other norm layers, then a wrapper."
    order = 11

    def before_fit(self):
        self.learn.model = nn.DataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(self.model))

    def after_fit(self):
        self.learn.model = self.learn.model.module


def test_norm_layers_stay_still_when_a_wrapper_replaces_them(tmp_path):
    usual, learner, control = plain_learner(tmp_path), plain_learner(tmp_path), plain_learner(tmp_path)
    fine_tune(usual, 1)
    fine_tune(learner, 1, cbs=Wrapper())
    assert type(learner.model[0][1]) is nn.SyncBatchNorm
    assert bits(learner.model.state_dict()) == bits(usual.model.state_dict())
    control.fit_one_cycle(1, cbs=Wrapper())
    assert not control.model[0][1].running_mean.equal(torch.zeros(8))


def test_a_freeze_holds_when_a_wrapper_replaces_norm_layers(tmp_path):
    usual, learner = plain_learner(tmp_path), plain_learner(tmp_path)
    for the in (usual, learner):
        freeze(the)
    usual.fit_one_cycle(2)
    learner.fit_one_cycle(2, cbs=Wrapper())
    assert type(learner.model[0][1]) is nn.SyncBatchNorm and status(learner).ok
    assert bits(learner.model.state_dict()) == bits(usual.model.state_dict())
    with frozen(learner, 1):
        learner.fit_one_cycle(1)
    learner = pickle.loads(pickle.dumps(copy.deepcopy(learner)))
    before = bits(learner.model[0].state_dict())
    learner.fit_one_cycle(1)
    assert bits(learner.model[0].state_dict()) == before
    unfreeze(learner)
    assert not any(m._forward_pre_hooks for m in learner.model.modules())
    learner.fit_one_cycle(1)
    assert bits(learner.model[0].state_dict()) != before


def test_an_interrupted_run_with_replaced_norm_layers_gives_the_freeze_back(tmp_path):
    learner = plain_learner(tmp_path)
    freeze(learner, r"0\.")
    before = bits(learner.model[0].state_dict())
    with pytest.raises(KeyboardInterrupt):
        fine_tune(learner, [Phase(2, 1e-2)], cbs=[Wrapper(), Break("before_batch", 1, KeyboardInterrupt)])
    learner.fit_one_cycle(1)
    assert bits(learner.model[0].state_dict()) == before


if __name__ == "__main__":
    process(sys.argv[1])
