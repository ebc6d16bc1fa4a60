"""fastai, as its documentation does it: `Learner.freeze`, `Learner.unfreeze`, `SaveModelCallback`.

https://docs.fast.ai/learner.html
https://docs.fast.ai/callback.training.html
https://docs.fast.ai/callback.tracker.html
"""
from fastai.callback import hook  # noqa: F401 (Learner.summary)
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import BnFreeze
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import params
from torch.utils.data import Subset

WAYS = {
    "still": "freeze()",
    "still_2": "freeze(), with train_bn=False and BnFreeze",
    "typo": "by number",
    "undo": "freeze(), unfreeze()",
    "resume": "SaveModelCallback, start_epoch",
    "epoch": "freeze()",
    "epoch_2": "freeze(), with train_bn=False and BnFreeze",
}
DOCS = {"": "https://docs.fast.ai/learner.html", "still_2": "https://docs.fast.ai/callback.training.html",
        "resume": "https://docs.fast.ai/callback.tracker.html"}
NOT_OFFERED = {}


def split(model):
    return [params(model.body), params(model.head)]


def data(pictures, batch_size=16):
    return DataLoaders.from_dsets(pictures, Subset(pictures, [0]), bs=batch_size, device="cpu", num_workers=0)


def still(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split)
    learner.fit(1, 1e-3)
    yield model
    learner.freeze()
    learner.fit(1, 1e-3)
    yield model


def still_2(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split, train_bn=False,
                      cbs=BnFreeze())
    learner.fit(1, 1e-3)
    yield model
    learner.freeze()
    learner.fit(1, 1e-3)
    yield model


def nothing(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat())
    learner.freeze()
    learner.fit(1, 1e-3)
    yield model


def typo(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split)
    learner.freeze_to(-5)
    learner.fit(1, 1e-3)
    yield model


def seen(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split, train_bn=False,
                      cbs=BnFreeze())
    learner.freeze()
    yield learner.summary(), model
    learner.fit(1, 1e-3)
    yield "", model
    learner.unfreeze()
    learner.fit(1, 1e-3)
    learner.freeze()
    yield learner.summary(), model
    learner.fit(1, 1e-3)
    yield "", model


def undo(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split)
    learner.fit(1, 1e-3)
    yield model, learner.opt, learner.cbs
    learner.freeze()
    learner.unfreeze()
    yield model, learner.opt, learner.cbs


def resume(model, pictures, folder, shuffle):
    dls = data(pictures)
    dls.train.shuffle = shuffle
    learner = Learner(dls, model, loss_func=CrossEntropyLossFlat(), splitter=split, path=folder)
    last = max((int(file.stem[4:]) for file in folder.glob("models/all_*.pth")), default=None)
    if last is None:
        learner.freeze()
        learner.fit(1, 1e-3, cbs=SaveModelCallback(fname="head", every_epoch=True, with_opt=True))
    learner.unfreeze()
    if last is not None:
        learner.load(f"all_{last}", with_opt=True)
    learner.fit(4, 1e-3, cbs=SaveModelCallback(fname="all", every_epoch=True, with_opt=True),
                start_epoch=0 if last is None else last + 1)
    return model


def epoch(model, pictures):
    learner = Learner(data(pictures, 32), model, loss_func=CrossEntropyLossFlat(), splitter=split)
    learner.freeze()
    return lambda: learner.fit(1, 1e-3)


def epoch_2(model, pictures):
    learner = Learner(data(pictures, 32), model, loss_func=CrossEntropyLossFlat(), splitter=split, train_bn=False,
                      cbs=BnFreeze())
    learner.freeze()
    return lambda: learner.fit(1, 1e-3)
