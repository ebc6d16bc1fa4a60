"""ft_tutorial, as its own pages do it: `freeze`, `frozen`, `status`, `fine_tune`."""
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch.utils.data import Subset

from ft_tutorial import fine_tune, freeze, frozen, split_by, status

WAYS = {
    "still": "freeze",
    "typo": "by regex",
    "seen": "status",
    "undo": "with frozen",
    "resume": "fine_tune(checkpoint=...)",
    "epoch": "freeze",
}
DOCS = {"": "02_freezing.ipynb", "resume": "04_finetuning.ipynb"}
NOT_OFFERED = {}


def data(pictures, batch_size=16):
    return DataLoaders.from_dsets(pictures, Subset(pictures, [0]), bs=batch_size, device="cpu", num_workers=0)


def still(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split_by("body", "head"))
    learner.fit(1, 1e-3)
    yield model
    freeze(learner)
    learner.fit(1, 1e-3)
    yield model


def nothing(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat())
    freeze(learner)
    learner.fit(1, 1e-3)
    yield model


def typo(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat())
    freeze(learner, "bdoy")
    learner.fit(1, 1e-3)
    yield model


def seen(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split_by("body", "head"),
                      train_bn=False)
    freeze(learner)
    yield status(learner), model
    learner.fit(1, 1e-3)
    yield "", model
    learner.freeze()
    yield status(learner), model
    learner.fit(1, 1e-3)
    yield "", model


def undo(model, pictures):
    learner = Learner(data(pictures), model, loss_func=CrossEntropyLossFlat(), splitter=split_by("body", "head"))
    learner.fit(1, 1e-3)
    yield model, learner.opt, learner.cbs
    with frozen(learner):
        pass
    yield model, learner.opt, learner.cbs


def resume(model, pictures, folder, shuffle):
    dls = data(pictures)
    dls.train.shuffle = shuffle
    learner = Learner(dls, model, loss_func=CrossEntropyLossFlat(), splitter=split_by("body", "head"))
    fine_tune(learner, 4, 1e-3, checkpoint=folder / "run.pt")
    return model


def epoch(model, pictures):
    learner = Learner(data(pictures, 32), model, loss_func=CrossEntropyLossFlat(), splitter=split_by("body", "head"))
    freeze(learner)
    return lambda: learner.fit(1, 1e-3)
