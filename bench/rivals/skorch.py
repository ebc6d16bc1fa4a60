"""skorch, as its documentation does it: the callbacks `Freezer`, `Unfreezer` and `Checkpoint`.

https://skorch.readthedocs.io/en/stable/callbacks.html
https://skorch.readthedocs.io/en/stable/user/save_load.html
"""
from skorch import NeuralNet
from skorch.callbacks import Checkpoint, Freezer, Unfreezer
from torch.nn import CrossEntropyLoss
from torch.optim import AdamW

WAYS = {
    "still": "Freezer",
    "typo": "by pattern",
    "undo": "Freezer, Unfreezer",
    "resume": "Checkpoint, load_params",
    "epoch": "Freezer",
}
DOCS = {"": "https://skorch.readthedocs.io/en/stable/callbacks.html#skorch.callbacks.Freezer",
        "resume": "https://skorch.readthedocs.io/en/stable/user/save_load.html"}
NOT_OFFERED = {"seen": "no call and no callback shows what is frozen"}


def net_of(model, callbacks=(), shuffle=True, batch_size=16):
    return NeuralNet(model, CrossEntropyLoss, optimizer=AdamW, lr=1e-3, optimizer__weight_decay=1e-2,
                     batch_size=batch_size, iterator_train__shuffle=shuffle, train_split=None,
                     callbacks=[*callbacks], verbose=0)


def still(model, pictures):
    net = net_of(model, [Freezer("body.*", at=2)])
    net.partial_fit(pictures, y=None, epochs=1)
    yield model
    net.partial_fit(pictures, y=None, epochs=1)
    yield model


def nothing(model, pictures):
    net_of(model, [Freezer("body.*")]).partial_fit(pictures, y=None, epochs=1)
    yield model


def typo(model, pictures):
    net_of(model, [Freezer("bdoy.*")]).partial_fit(pictures, y=None, epochs=1)
    yield model


def undo(model, pictures):
    net = net_of(model, [Freezer("body.*", at=2), Unfreezer("body.*", at=2)])
    net.partial_fit(pictures, y=None, epochs=1)
    yield model, net.optimizer_, net.callbacks
    net.notify("on_epoch_begin", dataset_train=pictures, dataset_valid=None)  # of epoch 2, without its training
    yield model, net.optimizer_, net.callbacks


def resume(model, pictures, folder, shuffle):
    save = Checkpoint(monitor=None, dirname=folder)
    net = net_of(model, [Freezer("body.*", at=1), Unfreezer("body.*", at=2), save], shuffle)
    net.initialize()
    if (folder / "params.pt").exists():
        net.load_params(checkpoint=save)
    net.partial_fit(pictures, y=None, epochs=5 - len(net.history))
    return model


def epoch(model, pictures):
    net = net_of(model, [Freezer("body.*")], batch_size=32)
    return lambda: net.partial_fit(pictures, y=None, epochs=1)
