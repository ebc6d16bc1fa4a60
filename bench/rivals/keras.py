"""Keras with the torch backend, as its guide to transfer learning does it: `trainable = False`, then `compile`.

https://keras.io/guides/transfer_learning/
https://keras.io/api/callbacks/backup_and_restore/
"""
import keras
from torch.utils.data import DataLoader

from .keras_twins import Look, resnet_twin, twin, whole

WAYS = {
    "still": "trainable = False, compile",
    "typo": "get_layer",
    "resume": "BackupAndRestore",
    "epoch": "trainable = False, compile",
}
DOCS = {"": "https://keras.io/guides/transfer_learning/",
        "resume": "https://keras.io/api/callbacks/backup_and_restore/"}
NOT_OFFERED = {}


def compiled(net):
    net.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-2),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return net


def still(model, pictures):
    net, loader = twin(model), DataLoader(pictures, batch_size=16, shuffle=True)
    compiled(net).fit(loader)
    yield Look(net)
    net.get_layer("body").trainable = False
    compiled(net).fit(loader)
    yield Look(net)


def nothing(model, pictures):
    net = twin(model)
    net.get_layer("body").trainable = False
    compiled(net).fit(DataLoader(pictures, batch_size=16))
    yield Look(net)


def typo(model, pictures):
    net = twin(model)
    net.get_layer("bdoy").trainable = False
    compiled(net).fit(DataLoader(pictures, batch_size=16))
    yield Look(net)


def shown(net):
    lines = []
    net.summary(print_fn=lines.append, expand_nested=True, show_trainable=True)
    return "\n".join(map(str, lines))


def seen(model, pictures):
    net, loader = twin(model), DataLoader(pictures, batch_size=16, shuffle=True)
    net.get_layer("body").trainable = False
    yield shown(net), Look(net)
    compiled(net).fit(loader)
    yield "", Look(net)
    for layer in net.get_layer("body").layers:
        layer.trainable = isinstance(layer, keras.layers.BatchNormalization)
    yield shown(net), Look(net)
    compiled(net).fit(loader)
    yield "", Look(net)


def undo(model, pictures):
    net, loader = twin(model), DataLoader(pictures, batch_size=16)
    compiled(net).fit(loader)
    yield whole(net)
    net.get_layer("body").trainable = False
    compiled(net)
    net.get_layer("body").trainable = True
    compiled(net)
    yield whole(net)


def resume(model, pictures, folder, shuffle):
    net, loader = twin(model), DataLoader(pictures, batch_size=16, shuffle=shuffle)
    if not (folder / "backup").exists():
        net.get_layer("body").trainable = False
        compiled(net).fit(loader)
    net.get_layer("body").trainable = True
    compiled(net).fit(loader, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(folder / "backup")])
    return Look(net)


def epoch(model, pictures):
    net, loader = resnet_twin(), DataLoader(pictures, batch_size=32, shuffle=True)
    net.get_layer("body").trainable = False
    compiled(net)
    return lambda: net.fit(loader)
