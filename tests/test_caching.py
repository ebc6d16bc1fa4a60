"`cached` gives the uncached fit's head for many kinds of data, network and fit; and is refused where it would not."
import copy
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.data import PartialDL, WeightedDL
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import fit_flat_cos, fit_one_cycle, lr_find  # noqa: F401 (methods)
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import BnFreeze, GradientAccumulation
from fastai.data.core import DataLoaders, Datasets, TfmdDL
from fastai.data.load import DataLoader
from fastai.data.transforms import ToTensor
from fastai.learner import Learner, load_learner
from fastai.losses import (BCEWithLogitsLossFlat, CrossEntropyLossFlat, LabelSmoothingCrossEntropy,
                           MSELossFlat)
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam, OptimWrapper
from fastai.torch_core import TensorBase, TensorCategory, TensorImage, params, set_seed
from fastcore.basics import noop
from fasttransform import Transform
from torch import nn

from ft_tutorial import caching
from ft_tutorial.caching import cache_size, cached
from ft_tutorial.cutting import find_cut
from ft_tutorial.freezing import freeze, split_by, unfreeze

torch.set_num_threads(1)


class Items(list):
    def new_empty(self):
        return Items()


def items_of(n=50, label=lambda x: TensorCategory(int(x[0] > 0)), start=0):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(start))
    return Items((TensorImage(row), label(row)) for row in x)


def body_and_head(model):
    return [params(model[0]), params(model[1])]


def network(*extra, outputs=2):
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), *extra, nn.Linear(8, 8))
    head = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, outputs))
    return nn.Sequential(body, head)


def loaders(items=None, dl_type=TfmdDL, bs=8, valid=None, **how):
    items = items or items_of()
    train = dl_type(items, bs=bs, num_workers=how.pop("num_workers", 0),
                    **{"shuffle": True, "drop_last": True, **how})
    return DataLoaders(train, TfmdDL(valid or items_of(21, start=1), bs=bs, num_workers=0), device="cpu")


def learner_of(model=None, dls=None, loss=None, splitter=body_and_head, what=-1, path=".", **how):
    set_seed(0)
    model = (model or network)()
    learner = Learner((dls or loaders)(), model, loss_func=loss or CrossEntropyLossFlat(), splitter=splitter,
                      path=path, **how)
    if hasattr(learner, "progress"):
        learner.remove_cb(learner.progress)
    learner.logger = noop
    freeze(learner, what)
    return learner


def one_cycle(learner):
    learner.fit_one_cycle(3, 1e-2)


def state(learner):
    "Everything that a fit leaves behind: weights, buffers, losses, records, random numbers."
    loss = [value.clone() for value in learner.recorder.losses]
    numbers = (random.random(), np.random.rand(), torch.rand(1).item(), learner.dls.train.rng.random())
    return {"weights": copy.deepcopy(learner.model.state_dict()), "losses": loss,
            "values": [list(v) for v in learner.recorder.values], "numbers": numbers}


def compare(plain, quick, tolerance=0):
    assert plain["numbers"] == quick["numbers"]
    assert len(plain["losses"]) == len(quick["losses"]) > 0
    for one, other in [*zip(plain["losses"], quick["losses"]),
                       *((value, quick["weights"][name]) for name, value in plain["weights"].items())]:
        assert one.shape == other.shape
        assert (one.float() - other.float()).abs().max() <= tolerance
    assert [len(values) for values in plain["values"]] == [len(values) for values in quick["values"]]
    assert np.allclose(np.hstack(plain["values"]), np.hstack(quick["values"]), rtol=0, atol=tolerance)


def both(make, fit=one_cycle, tolerance=0, memory="2GB"):
    "The uncached and the cached fit end alike; returns both learners."
    plain, quick = make(), make()
    start = copy.deepcopy(plain.model.state_dict())
    set_seed(5)
    fit(plain)
    expected = state(plain)
    set_seed(5)
    size = cache_size(quick)
    with cached(quick, memory) as report:
        fit(quick)
    compare(expected, state(quick), tolerance)
    assert report.bytes == size
    assert any(not torch.equal(value, plain.model.state_dict()[name]) for name, value in start.items())
    return plain, quick


def test_progress_is_shown_where_the_learner_shows_it(monkeypatch):
    shown = []
    monkeypatch.setattr(caching, "progress_bar", lambda dl, total, leave: shown.append((total, leave)) or dl)
    learner = learner_of()
    with cached(learner):
        assert shown == []  # `learner_of` takes fastai's progress away
    learner.add_cb(ProgressCallback())
    with cached(learner):
        assert shown == [(-(-len(dl.dataset) // 8), False) for dl in learner.dls.loaders]


# ---- what gives the same result ----------------------------------------------------------------

FITS = {
    "one_cycle": one_cycle,
    "flat_cos": lambda learner: learner.fit_flat_cos(2, 1e-2),
    "plain": lambda learner: learner.fit(2, 1e-2, wd=0.1),
    "twice": lambda learner: (learner.fit(1, 1e-2), learner.fit(2, 1e-3)),
    "reset_opt": lambda learner: learner.fit(2, 1e-2, reset_opt=True),
    "start_epoch": lambda learner: learner.fit(3, 1e-2, start_epoch=1),
    "accumulate": lambda learner: learner.fit(2, 1e-2, cbs=GradientAccumulation(16)),
    "after validating": lambda learner: (learner.validate(), learner.get_preds(), learner.fit(2)),
}


@pytest.mark.parametrize("name", FITS)
def test_every_fit(name):
    both(learner_of, FITS[name])


DATA = {
    "drop_last": (loaders, 0),
    "last batch is smaller": (partial(loaders, drop_last=False), 1e-6),
    "in order": (partial(loaders, shuffle=False, drop_last=False), 0),
    "one batch": (partial(loaders, bs=50), 0),
    "batches of more than all": (partial(loaders, bs=64, drop_last=False), 1e-6),
    "workers": (partial(loaders, num_workers=2), 0),
    "weighted": (partial(loaders, dl_type=partial(WeightedDL, wgts=[1, 2] * 25)), 0),
    "a part in each epoch": (partial(loaders, dl_type=partial(PartialDL, partial_n=24), drop_last=False), 0),
    "fastai's plain DataLoader": (partial(loaders, dl_type=DataLoader), 0),
}


@pytest.mark.parametrize("name", DATA)
def test_every_loader(name):
    dls, tolerance = DATA[name]
    both(partial(learner_of, dls=dls), tolerance=tolerance)


LABELS = {
    "class weights": (CrossEntropyLossFlat(weight=torch.tensor([1.0, 3.0])), None, 2),
    "label smoothing": (LabelSmoothingCrossEntropy(), None, 2),
    "several labels": (BCEWithLogitsLossFlat(), lambda x: TensorBase((x > 0).float()), 4),
    "regression": (MSELossFlat(), lambda x: TensorBase(x[:2] * 2), 2),
}


@pytest.mark.parametrize("name", LABELS)
def test_every_label(name):
    loss, label, outputs = LABELS[name]
    dls = partial(loaders, *([items_of(label=label), TfmdDL, 8, items_of(21, label)] if label else []))
    both(partial(learner_of, partial(network, outputs=outputs), dls, loss))


@pytest.mark.parametrize("opt", [Adam, SGD, partial(OptimWrapper, opt=torch.optim.AdamW)])
def test_every_optimizer(opt):
    both(partial(learner_of, opt_func=opt, metrics=accuracy))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(12, 2)

    def forward(self, x, extra):
        return self.head(torch.cat([self.body(x).relu(), extra], 1))


class HeadOfTwo(TwoInputs):
    def __init__(self):
        super().__init__()
        self.head = nn.Bilinear(8, 4, 2)

    def forward(self, x, extra):
        return self.head(self.body(x).relu(), extra)


@pytest.mark.parametrize("model", [TwoInputs, HeadOfTwo])
def test_several_inputs(model):
    def dls():
        x = torch.randn(40, 2, 4, generator=torch.Generator().manual_seed(0))
        data = DataLoaders.from_dsets(*[Items((a, b, int(a[0] > 0)) for a, b in x)] * 2, bs=8, num_workers=0,
                                      device="cpu")
        for dl in data.loaders:
            dl._n_inp = 2
        data.train._n_inp = 2
        return data
    both(partial(learner_of, model, dls, splitter=split_by("body", "head")))


def cnn(outputs=2):
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)),
                         nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs)))


def pictures(size=16):
    x = torch.rand(40, 3, size, size, generator=torch.Generator().manual_seed(0))
    items = Items((TensorImage(a), int(a.mean() > 0.5)) for a in x)
    return DataLoaders.from_dsets(items, items, bs=8, num_workers=0, device="cpu")


def test_convolutions_and_a_part_of_the_body():
    both(partial(learner_of, cnn, pictures))
    plain, quick = both(partial(learner_of, cnn, pictures, what=r"0\.[01]"))
    assert find_cut(quick).entry == "0.3"
    both(partial(learner_of, partial(network), what=[r"0\.", r"1\.1"]))


def torchvision_model(name):
    from torchvision import models
    return getattr(models, name)(num_classes=2)


@pytest.mark.parametrize("name, head", [("resnet18", "fc"), ("mobilenet_v2", "classifier"), ("vit", "heads")])
def test_torchvision(name, head):
    def model():
        if name != "vit":
            return torchvision_model(name)
        from torchvision.models import VisionTransformer
        return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=2)
    make = partial(learner_of, model, partial(pictures, 32), splitter=split_by(f"(?!{head})", head))
    plain, quick = both(make, lambda learner: learner.fit(2, 1e-2))
    assert find_cut(quick).entry.startswith(head)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_lite0"])
def test_timm(name):
    timm = pytest.importorskip("timm")
    how = {"img_size": 32, "patch_size": 8, "depth": 2} if name.startswith("vit") else {}
    def model():
        return timm.create_model(name, num_classes=2, **how)
    head = {"vit": "head", "conv": "head", "res": "fc", "effi": "classifier"}
    head = next(value for key, value in head.items() if name.startswith(key))
    make = partial(learner_of, model, partial(pictures, 32), splitter=split_by(f"(?!{head})", rf"{head}\b"))
    both(make, lambda learner: learner.fit(2, 1e-2))


def test_convolutions_with_a_smaller_last_batch():
    def dls():
        data = pictures(24)
        data.train.drop_last, data.train.bs = False, 12
        return data
    both(partial(learner_of, cnn, dls), tolerance=1e-5)


def test_text():
    "The dropout in fastai's language models stands in the way, and is named."
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
    from fastai.text.models.core import get_text_classifier
    def dls():
        x = torch.randint(2, 30, (40, 12), generator=torch.Generator().manual_seed(0))
        items = Items((row, int(row[0] > 15)) for row in x)
        return DataLoaders.from_dsets(items, items, bs=8, num_workers=0, device="cpu")
    def model():
        config = {**awd_lstm_clas_config, "emb_sz": 8, "n_hid": 8, "n_layers": 2}
        return get_text_classifier(AWD_LSTM, 30, 2, config=config, drop_mult=0.5)
    learner = learner_of(model, dls)
    with pytest.raises(ValueError, match=r"encoder_dp \(EmbeddingDropout\) draws random numbers in training"):
        cached(learner).__enter__()
    learner.loss_func = lambda output, y: nn.functional.cross_entropy(output[0], y)  # without fastai's RNN callbacks
    learner.fit(1)


def test_mixed_precision():
    "On a CPU fastai's mixed precision computes in float32; features must come from the same context."
    for mode in ("fp16", "bf16"):
        both(lambda: learner_of(cbs=MixedPrecision(mode)), lambda learner: learner.fit(1))


def test_bn_freeze_holds():
    "fastai's own way to hold norm layers: `train_bn=False` and `BnFreeze`."
    def make():
        learner = learner_of(train_bn=False, cbs=[BnFreeze()])
        unfreeze(learner)
        learner.create_opt()
        learner.freeze()
        return learner
    both(make)


def test_transforms_that_do_not_depend_on_chance():
    class Half(Transform):
        def encodes(self, x: TensorImage):
            return x / 2
    def dls():
        return loaders(after_item=[ToTensor()], after_batch=[Half()])
    both(partial(learner_of, dls=dls))


# ---- callbacks, saved files ----------------------------------------------------------------------

def test_early_stopping():
    def fit(learner):
        learner.fit(9, 1e-3, cbs=EarlyStoppingCallback(monitor="train_loss", min_delta=5.0, patience=1))
    plain, quick = both(learner_of, fit)
    assert len(quick.recorder.values) == 2


def test_save_model_writes_the_whole_network(tmp_path):
    def fit(learner):
        learner.fit(3, 1e-2, cbs=SaveModelCallback(fname="best", with_opt=True))
    plain, quick = both(partial(learner_of, path=tmp_path), fit)
    other = learner_of(path=tmp_path).load("best", with_opt=True)
    assert_same(other.model, quick.model)
    assert {*torch.load(tmp_path / "models" / "best.pth", weights_only=False)["model"]} == {*quick.model.state_dict()}


def assert_same(model, other):
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_lr_find_in_the_block(tmp_path):
    plain, quick = learner_of(path=tmp_path), learner_of(path=tmp_path)
    before = copy.deepcopy(quick.model)
    set_seed(0)
    expected = plain.lr_find(show_plot=False, num_it=10)
    set_seed(0)
    with cached(quick):
        assert quick.lr_find(show_plot=False, num_it=10) == expected
    assert_same(before, quick.model)


def test_saved_and_copied_in_the_block(tmp_path):
    learner = learner_of(path=tmp_path)
    x = torch.stack([item for item, label in items_of(5)])
    with cached(learner):
        learner.fit(1)
        learner.export("learner.pkl")
        twin = copy.deepcopy(learner.model)
        preds, labels = learner.get_preds()
        torch.save(learner.model, tmp_path / "model.pth")
    learner.model.eval()
    expected = learner.model(x)
    for model in (twin, load_learner(tmp_path / "learner.pkl").model,
                  torch.load(tmp_path / "model.pth", weights_only=False)):
        assert torch.equal(model.eval()(x), expected)
    assert (tmp_path / "learner.pkl").stat().st_size < 200_000
    assert torch.equal(preds, learner.get_preds()[0])
    assert all(type(cb) in (Callback,) or not isinstance(cb, caching.CacheGuard)
               for cb in load_learner(tmp_path / "learner.pkl").cbs)


def test_callbacks_see_the_usual_learner():
    seen = []
    class Look(Callback):
        def before_batch(self):
            seen.append((len(self.xb), self.y.shape, type(self.model), len(self.dls.train), self.n_iter))
    both(learner_of, lambda learner: learner.fit(2, cbs=Look()))
    assert seen[:len(seen) // 2] == seen[len(seen) // 2:]


def test_other_data_in_the_block_goes_through_the_whole_network():
    learner, other = learner_of(), learner_of()
    fresh = items_of(30, start=7)
    with cached(learner):
        new = learner.dls.test_dl(fresh, with_labels=True) if hasattr(learner.dls, "test_dl") else None
        in_block = learner.get_preds(dl=learner.dls.valid.new(fresh))[0]
    assert torch.equal(in_block, other.get_preds(dl=other.dls.valid.new(fresh))[0])
    assert new is None or new.dataset is not None


def test_loaders_replaced_in_the_block():
    "Data of another size, given in the block, is not cached, and right; a new block caches it."
    def fit(learner):
        learner.fit(1)
        learner.dls = loaders(items_of(34, start=3))
        learner.fit(1)
    plain, quick = both(learner_of, fit)
    assert type(quick.dls.train) is TfmdDL
    set_seed(0)
    plain.fit(2)
    expected = state(plain)
    set_seed(0)
    with cached(quick) as report:
        quick.fit(2)
    assert report.items == [34, 21]
    compare(expected, state(quick))


# ---- refusals --------------------------------------------------------------------------------------

class Noise(Transform):
    split_idx = None
    def encodes(self, x: TensorImage):
        return x + torch.randn_like(x) / 100


class OwnChance(Items):
    generator = np.random.default_rng(0)
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + self.generator.random(), y


class Chance(Items):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + random.random(), y


class Functional(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.2, self.training)


class Counts(nn.Module):
    "Freezing by hand does not hold it."
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += self.training
        return x


class Stochastic(nn.Module):
    "Stochastic depth as timm and torchvision do it."
    def __init__(self, p):
        super().__init__()
        from torchvision.ops import StochasticDepth
        self.drop = StochasticDepth(p, "row")

    def forward(self, x):
        return x + self.drop(x)


class OtherInTraining(nn.Module):
    def forward(self, x):
        return x * 2 if self.training else x


class OverTheBatch(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Mixed(nn.Module):
    "Layers that learn before and after the frozen one."
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class Skips(nn.Module):
    "The head's output is not the network's."
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x):
        body = self.body(x)
        return body + self.head(body)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.head(self.body(x)))


class Tied(nn.Module):
    "One norm layer in body and head."
    def __init__(self):
        super().__init__()
        norm = nn.BatchNorm1d(8)
        self.body = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 8))
        self.head = nn.Sequential(norm, nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.body(x))


class Side(nn.Module):
    "The head reads what the body left aside."
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 2), SideHead(self)

    def forward(self, x):
        self.left = x.mean(1, keepdim=True)
        return self.head(self.body(x))


class SideHead(nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.whole, self.linear = [whole], nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x) + self.whole[0].left


def left_over_gradient():
    learner = learner_of()
    for parameter in learner.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return learner


def fastai_freeze():
    learner = learner_of()
    freeze(learner, -1, batchnorm="train")
    return learner


def with_hook():
    learner = learner_of()
    learner.model[0][0].register_forward_hook(lambda *given: None)
    return learner


def by_hand():
    learner = learner_of(lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 8), Counts(), nn.Linear(8, 8)),
                                               nn.Linear(8, 2)))
    unfreeze(learner)
    learner.model[0].requires_grad_(False)
    return learner


def unfrozen():
    learner = learner_of()
    unfreeze(learner)
    return learner


def middle_only():
    return learner_of(Mixed, splitter=split_by("a", "b", "c"), what="b")


def extra(module):
    return partial(learner_of, partial(network, module))


def no_items():
    learner = learner_of()
    learner.dls = DataLoaders(*[dl.new(Items()) for dl in learner.dls.loaders])
    return learner


def torch_loaders():
    return DataLoaders(*[torch.utils.data.DataLoader(items_of(20), batch_size=4)] * 2, device="cpu")


def split(*patterns):
    return dict(splitter=split_by(*patterns))


REFUSED = {
    "transform": (partial(learner_of, dls=lambda: loaders(after_batch=[Noise()])), "the transform Noise (after_batch)"),
    "item transform": (partial(learner_of, dls=lambda: loaders(after_item=[Noise()])), "the transform Noise (after_item)"),
    "dataset": (partial(learner_of, dls=lambda: loaders(Chance(items_of()))), "the dataset, Chance, draws random"),
    "dataset's own generator": (partial(learner_of, dls=lambda: loaders(OwnChance(items_of()))), "the dataset, OwnChance, gives other items"),
    "torch's loader": (partial(learner_of, dls=torch_loaders), "use fastai's DataLoader"),
    "dropout": (extra(nn.Dropout(0.1)), "0.3 (Dropout) draws random numbers in training"),
    "functional dropout": (extra(Functional()), "0.3 (Functional) draws random numbers in training"),
    "stochastic depth": (extra(Stochastic(0.2)), "0.3.drop (StochasticDepth) draws random numbers"),
    "batch statistics": (extra(nn.BatchNorm1d(8, affine=False, track_running_stats=False)), "0.3 (BatchNorm1d) takes its statistics from the batch"),
    "own buffer": (by_hand, "0.1 (Counts) changes its buffers in training"),
    "mode": (extra(OtherInTraining()), "differently in training and in validation"),
    "batch": (extra(OverTheBatch()), "depend on the other items"),
    "norm layers that learn": (fastai_freeze, "0.1 (BatchNorm1d) learns"),
    "left-over gradient": (left_over_gradient, "0.0.weight is frozen, but a gradient is left over"),
    "hook": (with_hook, "0.0 (Linear) has a forward hook"),
    "unfrozen": (unfrozen, "nothing to cache: 0.0 (Linear) learns"),
    "middle": (middle_only, "nothing to cache: a (Linear) learns"),
    "output is more": (partial(learner_of, Skips, **split("body", "head")), "cannot be cut"),
    "head twice": (partial(learner_of, Twice, **split("body", "head")), "must be called once"),
    "tied": (partial(learner_of, Tied, splitter=lambda m: [params(m.body[0]) + params(m.body[2]), params(m.head)]), "must be called once"),
    "left aside": (partial(learner_of, Side, **split("body", "head")), "features do not decide the output alone: head starts no head"),
    "mixup": (partial(learner_of, cbs=[MixUp()]), "the callback MixUp changes the body's input"),
    "cutmix": (partial(learner_of, cbs=[CutMix()]), "the callback CutMix changes the body's input"),
    "half weights": (partial(learner_of, cbs=[NonNativeMixedPrecision()]), "NonNativeMixedPrecision changes the weights"),
    "no items": (no_items, "the loaders have no items"),
}


MEMOS = {"_n_inp", "_types", "it", "_DataLoader__idxs"}  # what fastai's loaders remember of a batch


def snapshot(learner):
    "All that a refusal might have touched."
    return {"weights": [t.clone() for t in learner.model.state_dict().values()],
            "modes": [m.training for m in learner.model.modules()],
            "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in learner.model.modules()],
            "trains": [(p.requires_grad, p.grad is None) for p in learner.model.parameters()],
            "forward": "forward" in learner.model.__dict__,
            "loaders": [(type(dl), sorted({*dl.__dict__} - MEMOS), getattr(getattr(dl, "rng", None), "getstate", noop)())
                        for dl in learner.dls.loaders],
            "callbacks": [type(cb) for cb in learner.cbs], "keys": sorted(learner.__dict__),
            "numbers": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())}


def assert_untouched(before, after):
    for name in before:
        if name == "weights":
            assert all(torch.equal(a, b) for a, b in zip(before[name], after[name]))
        else:
            assert before[name] == after[name], name


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_untouched(name):
    make, message = REFUSED[name]
    learner = make()
    learner.model.train()
    before = snapshot(learner)
    for call in (cache_size, lambda learner: cached(learner).__enter__()):
        with pytest.raises(ValueError) as error:
            call(learner)
        assert message in str(error.value)
        assert_untouched(before, snapshot(learner))


def test_sizes_that_change_are_refused_during_the_pass():
    x = [torch.ones(1, 4 + (i > 5)) for i in range(8)]
    def dls():
        return DataLoaders.from_dsets(*[Items((row, 0) for row in x)] * 2, bs=1, num_workers=0, device="cpu")
    def model():
        return nn.Sequential(nn.Conv1d(1, 2, 2), nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 2)))
    both(partial(learner_of, model, dls), tolerance=1e-6)  # pooled: one size
    def unpooled():
        return nn.Sequential(nn.Conv1d(1, 2, 2), Last())
    learner = learner_of(unpooled, dls)
    before = snapshot(learner)
    with pytest.raises(ValueError, match="all must have one size"):
        cached(learner).__enter__()
    assert_untouched(before, snapshot(learner))


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x.mean(-1)) * 2


def test_chance_that_comes_late():
    "Only later items draw; the pass over all items notices."
    class Late(Items):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return (x + random.random() if i > 30 else x), y
    with pytest.raises(ValueError, match="random numbers"):
        cached(learner_of(dls=lambda: loaders(Late(items_of())))).__enter__()


CONTROLS = {
    "dropout": (extra(nn.Dropout(0.1)), extra(nn.Dropout(0.0)), one_cycle),
    "norm layers that learn": (fastai_freeze, learner_of, one_cycle),
    "transform": (REFUSED["transform"][0], learner_of, one_cycle),
    "stochastic depth": (extra(Stochastic(0.2)), extra(Stochastic(0.0)), one_cycle),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_control_what_is_refused_changes_the_result(name):
    trouble, cure, fit = CONTROLS[name]
    results = []
    for make in (trouble, cure):
        learner = make()
        set_seed(5)
        fit(learner)
        results.append(torch.stack(learner.recorder.losses))
    with cached(cure()):
        pass
    assert (results[0] - results[1]).abs().max() > 1e-3


@pytest.mark.parametrize("given, error", [(2.5, TypeError), (True, TypeError), (None, TypeError), ("2XB", ValueError),
                                          ("-1GB", ValueError), ("", ValueError)])
def test_memory(given, error):
    with pytest.raises(error, match="'2GB'"):
        cached(learner_of(), given).__enter__()


# ---- in the block ----------------------------------------------------------------------------------

class Doubles(Callback):
    def before_batch(self):
        self.learn.xb = tuple(x * 2 for x in self.xb)


class DoublesInPlace(Callback):
    def before_batch(self):
        self.learn.xb[0].mul_(2)


@pytest.mark.parametrize("cb", [MixUp, CutMix, Doubles, DoublesInPlace])
def test_callback_given_to_a_fit_in_the_block(cb):
    learner = learner_of()
    loss = learner.loss_func
    with pytest.raises(ValueError, match=f"{cb.__name__}.*" if cb is not CutMix else "CutMix"):
        with cached(learner):
            learner.fit(1, cbs=cb())
    assert learner.loss_func is loss
    learner.fit(1)


def move_by_hand(learner):
    with torch.no_grad():
        learner.model[0][0].weight[0, 0] += 1e-6


def move_a_buffer(learner):
    learner.model[0][1].running_mean[0] += 1e-6


def replace_a_layer(learner):
    learner.model[0][0] = nn.Linear(4, 8)
    learner.model[0][0].requires_grad_(False)


def replace_the_network(learner):
    learner.model = learner_of().model


MOVES = {"by hand": (move_by_hand, "0.0.weight moved"), "a buffer": (move_a_buffer, "0.1.running_mean moved"),
         "a layer": (replace_a_layer, "0.0.weight moved"), "unfrozen": (unfreeze, "was unfrozen in the block"),
         "the network": (replace_the_network, "another network")}


@pytest.mark.parametrize("name", MOVES)
def test_a_body_that_moves_in_the_block_is_noticed(name):
    move, message = MOVES[name]
    learner = learner_of()
    with cached(learner):
        learner.fit(1)
        move(learner)
        with pytest.raises(ValueError, match=message):
            learner.fit(1)
    learner = learner_of()
    class Moves(Callback):
        def after_epoch(self):
            if self.epoch == 1:
                move(self.learn)
    with pytest.raises(ValueError, match=message), cached(learner):
        learner.fit(3, cbs=Moves())


def test_validation_of_a_moved_body_is_noticed():
    learner = learner_of()
    with cached(learner):
        move_by_hand(learner)
        with pytest.raises(ValueError, match="0.0.weight moved"):
            learner.validate()


def test_a_hook_set_in_the_block_is_noticed():
    learner = learner_of()
    with pytest.raises(ValueError, match="has a forward hook"), cached(learner):
        learner.fit(1, cbs=ActivationStats(modules=[learner.model[0][0]]))


def test_a_body_that_moved_between_two_blocks():
    plain, quick = learner_of(), learner_of()
    for learner, block in ((plain, lambda learner: open(os.devnull)), (quick, cached)):
        set_seed(0)
        with block(learner):
            learner.fit(1, 1e-2)
        unfreeze(learner)
        learner.fit(1, 1e-2)
        freeze(learner, -1)
        with block(learner):
            learner.fit(1, 1e-2)
    assert_same(plain.model, quick.model)


def test_nested_blocks_are_refused():
    learner = learner_of()
    with cached(learner):
        with pytest.raises(ValueError, match="cached already"):
            cached(learner).__enter__()
        learner.fit(1)


class Stops(Callback):
    def __init__(self, error, event):
        self.error, self.event = error, event

    def after_batch(self):
        if self.learn.train_iter == 5 and self.training:
            raise self.error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_interrupted(error):
    learner = learner_of()
    keys = ("hooks", "forward", "callbacks", "trains")
    before = snapshot(learner)
    kinds = [(type(dl), {*dl.__dict__} - MEMOS) for dl in learner.dls.loaders]
    with pytest.raises(error), cached(learner):
        learner.fit(2, cbs=Stops(error, "after_batch"))
    after = snapshot(learner)
    assert all(before[key] == after[key] for key in keys[:2])
    assert [(type(dl), {*dl.__dict__} - MEMOS) for dl in learner.dls.loaders] == kinds
    assert not any(isinstance(cb, caching.CacheGuard) for cb in learner.cbs)
    assert any(not torch.equal(a, b) for a, b in zip(before["weights"], after["weights"]))  # what was trained is kept


def test_interrupted_while_the_body_runs(monkeypatch):
    learner = learner_of()
    before, calls = snapshot(learner), itertools.count()
    keep = caching._keep
    def stop(*given):
        if next(calls) == 3:
            raise KeyboardInterrupt
        keep(*given)
    monkeypatch.setattr(caching, "_keep", stop)
    with pytest.raises(KeyboardInterrupt):
        cached(learner).__enter__()
    assert_untouched(before, snapshot(learner))


# ---- disk --------------------------------------------------------------------------------------------

def test_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    both(learner_of, memory=0)
    both(partial(learner_of, dls=partial(loaders, valid=items_of(3))), memory="1KB")
    with cached(learner_of(), 0) as report:
        assert report.on_disk and not list(tmp_path.iterdir())
    with cached(learner_of(), report.bytes) as report:
        assert not report.on_disk


def test_full_disk(monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    learner = learner_of()
    before = snapshot(learner)
    with pytest.raises(OSError, match="TMPDIR"):
        cached(learner, 0).__enter__()
    assert_untouched(before, snapshot(learner))


KILLED = """
import sys
sys.path.insert(0, {here!r})
from test_caching import cached, learner_of, noop
learner = learner_of()
with cached(learner, memory=0) as report:
    print(report.on_disk, flush=True)
    import time; time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_no_file_is_left_after_a_kill(tmp_path):
    script = KILLED.format(here=str(Path(__file__).parent))
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "TMPDIR": str(tmp_path)})
    assert child.stdout.readline().strip() == "True"
    mapped = [line for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines() if str(tmp_path) in line]
    assert mapped and all("(deleted)" in line for line in mapped)  # there is a file, and it has no name
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.1)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]  # older torch leaves a folder with a script


# ---- several processes -----------------------------------------------------------------------------

RANKS = """
import sys
sys.path.insert(0, {here!r})
from contextlib import nullcontext
from fastai.distributed import DistributedDL, distrib_ctx
from fastai.torch_core import num_distrib, rank_distrib
from test_caching import *

def broadcast(self, numbers, rank):  # fastai's goes through CUDA
    numbers = torch.LongTensor(numbers)
    torch.distributed.broadcast(numbers, rank)
    return numbers.tolist()

DistributedDL._broadcast = broadcast
ends = []
for block in (nullcontext, cached):
    learner = learner_of()
    set_seed(5)
    with learner.distrib_ctx(sync_bn=False, in_notebook=False), block(learner):
        learner.fit(2, 1e-2)
    ends.append(state(learner))
compare(*ends)
Path({folder!r}, str(rank_distrib())).write_text(f"equal, of {{num_distrib()}}")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # the interpreter's own end can meet a thread of torch.distributed that has not ended
"""


def test_two_processes(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    subprocess.run([sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                    str(script)], check=True, timeout=300, env={**os.environ, "ACCELERATE_USE_CPU": "1"})
    assert [(tmp_path / name).read_text() for name in "01"] == ["equal, of 2"] * 2
