"What the other tests show on the CPU, on a GPU: mixed precision with its loss scaling, moves between devices, and the same bits."
import copy

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import to_bf16, to_fp16  # noqa: F401 (methods)
from fastai.callback.schedule import fine_tune as fastai_fine_tune  # noqa: F401 (a method)
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import params, set_seed
from fastcore.basics import noop
from test_freezing import Items
from torch import nn

from ft_tutorial.caching import cached
from ft_tutorial.finetuning import fine_tune
from ft_tutorial.freezing import freeze, status, unfreeze
from ft_tutorial.movement import compare, moved
from ft_tutorial.plans import plan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
PRECISIONS = {"float32": noop, "float16": lambda learner: learner.to_fp16(), "bfloat16": lambda learner: learner.to_bf16()}


@pytest.fixture(autouse=True)
def same_bits_each_time():
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def body_and_head(model):
    return [params(model[0]), params(model[1])]


def make_learner(folder, device="cuda"):
    set_seed(0)
    x = torch.randn(40, 3, 16, 16)
    items = Items((x[i], int(x[i].mean() > 0)) for i in range(40))
    dls = DataLoaders.from_dsets(items, items, bs=8, num_workers=0, device=device, shuffle=(True, False))
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 2))
    learner = Learner(dls, nn.Sequential(body, head), CrossEntropyLossFlat(), splitter=body_and_head, path=folder)
    learner.remove_cb(learner.progress)
    learner.logger = noop
    return learner


def values(learner):
    return {name: value.detach().cpu().clone() for name, value in learner.model.state_dict().items()}


def differing(before, after):
    return {name for name, value in before.items() if not value.equal(after[name])}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_frozen_is_bit_identical(tmp_path, precision):
    learner = make_learner(tmp_path)
    PRECISIONS[precision](learner)
    learner.fit_one_cycle(1, 1e-2)
    before = values(learner)
    learner.freeze()
    learner.fit_one_cycle(2, 1e-2)
    assert any(name.startswith("0.") for name in differing(before, values(learner)))  # the control: fastai's freeze
    before = values(learner)
    assert freeze(learner).ok
    with moved(learner) as movement:
        learner.fit_one_cycle(2, 1e-2)
    assert next(learner.model.parameters()).is_cuda
    assert differing(before, values(learner)) == {"1.3.weight", "1.3.bias"}
    movement.check()
    unfreeze(learner)
    learner.fit_one_cycle(1, 1e-2)
    assert "0.0.weight" in differing(before, values(learner))


def test_a_snapshot_takes_no_memory_on_the_gpu(tmp_path):
    learner = make_learner(tmp_path)
    learner.model[1].append(nn.Linear(2, 2_000_000, bias=False))  # 16 MB
    learner.create_opt()
    learner.model.cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with moved(learner):
        pass
    assert torch.cuda.max_memory_allocated() - before < 1.1 * 16e6
    assert torch.cuda.memory_allocated() - before < 1e6


@pytest.mark.parametrize("arguments", [dict(epochs=2), dict(epochs=1, freeze_epochs=2, lr_mult=7)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_equals_fastai_bit_for_bit(tmp_path, precision, arguments):
    learners = [make_learner(tmp_path) for _ in range(3)]
    for learner in learners:
        PRECISIONS[precision](learner)
    set_seed(1)
    learners[0].fine_tune(**arguments)
    set_seed(1)
    fine_tune(learners[1], **arguments, batchnorm="train")
    set_seed(1)
    fine_tune(learners[2], **arguments)
    assert not differing(values(learners[0]), values(learners[1]))
    assert learners[0].recorder.values == learners[1].recorder.values
    assert differing(values(learners[0]), values(learners[2]))  # the control: norm layers held still


@pytest.mark.parametrize("used_before", [False, True], ids=["fresh", "on the GPU already"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cached_trains_the_same_head(tmp_path, precision, used_before):
    usual, kept, other = [make_learner(tmp_path) for _ in range(3)]
    for learner in (usual, kept, other):
        PRECISIONS[precision](learner)
        if used_before:
            learner.model.cuda()
        freeze(learner)
    for learner, seed in ((usual, 1), (other, 2)):
        set_seed(seed)
        learner.fit_one_cycle(3, 1e-2)
    where = next(kept.model.parameters()).device
    planned = plan(kept, 3, 1e-2, "head_only", cache=True)
    assert next(kept.model.parameters()).device == where
    set_seed(1)
    with cached(kept) as report:
        kept.fit_one_cycle(3, 1e-2)
    assert report.bytes == planned.cache
    head = {name: value for name, value in values(usual).items() if name.startswith("1.")}
    tolerance = 1e-5 if precision == "float32" else 1e-3
    assert all(value.allclose(values(kept)[name], atol=tolerance) for name, value in head.items())
    assert not all(value.allclose(values(other)[name], atol=tolerance) for name, value in head.items())  # the control
    assert not differing({name: value for name, value in values(usual).items() if name.startswith("0.")}, values(kept))


class Stop(Callback):
    order = 2000

    def __init__(self, after):
        self.left = after

    def after_epoch(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_resumed_is_the_same_run(tmp_path, precision, cache):
    call = dict(epochs=2, freeze_epochs=2, base_lr=1e-2, cache=cache)
    learners = []
    for path, stop in [("whole.pt", 0), ("stopped.pt", 1), ("stopped.pt", 0)]:
        learner = make_learner(tmp_path)
        PRECISIONS[precision](learner)
        set_seed(len(learners))  # the file brings the random numbers
        try:
            if path == "whole.pt":
                set_seed(1)
            fine_tune(learner, **call, checkpoint=tmp_path / path, cbs=Stop(stop) if stop else None)
        except KeyboardInterrupt:
            assert stop
        learners.append(learner)
    whole, stopped, resumed = learners
    assert not differing(values(whole), values(resumed))
    assert whole.recorder.values == resumed.recorder.values and whole.recorder.losses == resumed.recorder.losses
    assert differing(values(whole), values(stopped))  # the control


def test_a_run_begun_on_the_gpu_goes_on_without_it(tmp_path):
    first, second = make_learner(tmp_path), make_learner(tmp_path, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(first, 2, freeze_epochs=0, checkpoint=tmp_path / "run.pt", cbs=Stop(1))
    fine_tune(second, 2, freeze_epochs=0, checkpoint=tmp_path / "run.pt")
    assert not next(second.model.parameters()).is_cuda and second.recorder.values[0] == first.recorder.values[0]


def test_a_freeze_survives_files_between_devices(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner, r"0\.[01]")
    learner.fit(1, 1e-2)
    learner.save("run")
    other = make_learner(tmp_path, device="cpu").load("run")
    learner.export(tmp_path / "learner.pkl")
    exported = load_learner(tmp_path / "learner.pkl", cpu=True)
    for one in (other, exported):
        assert [row["trainable"] for row in status(one).rows] == [row["trainable"] for row in status(learner).rows]
    before = copy.deepcopy(other.model.state_dict())
    other.fit(1, 1e-2)
    found = differing(before, other.model.state_dict())
    assert found and not any(name.startswith(("0.0.", "0.1.")) for name in found)
    movement = compare(learner.model, other.model)  # one on each device
    assert movement["0.0.weight"].state == "equal" and movement["1.3.weight"].state == "moved"
