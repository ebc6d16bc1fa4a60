"""pytorch-accelerated, as its documentation and its example do it: `ModelFreezer`, `save_training_state`.

https://pytorch-accelerated.readthedocs.io/en/latest/fine_tuning.html
https://pytorch-accelerated.readthedocs.io/en/latest/trainer.html
https://github.com/Chris-hughes10/pytorch-accelerated/blob/main/examples/vision/transfer_learning/pets_finetune.py
"""
from pytorch_accelerated.callbacks import SaveTrainingStateCallback
from pytorch_accelerated.finetuning import ModelFreezer
from pytorch_accelerated.trainer import Trainer
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

WAYS = {
    "still": "ModelFreezer",
    "still_2": "ModelFreezer(freeze_batch_norms=True)",
    "still_3": "freeze(set_modules_as_eval=True)",
    "typo": "by number",
    "seen": "get_layer_groups",
    "resume": "resume_from, num_epochs as before",
    "resume_2": "resume_from, num_epochs counted down by the user",
    "epoch": "ModelFreezer",
    "epoch_2": "ModelFreezer(freeze_batch_norms=True)",
}
DOCS = {"": "https://pytorch-accelerated.readthedocs.io/en/latest/fine_tuning.html",
        "resume": "https://pytorch-accelerated.readthedocs.io/en/latest/trainer.html"}
NOT_OFFERED = {}


def fit(model, parameters, pictures, epochs=1, batch_size=16):
    optimizer = AdamW(parameters, lr=1e-3, weight_decay=1e-2)
    trainer = Trainer(model, cross_entropy, optimizer, callbacks=())
    trainer.train(pictures, num_epochs=epochs, per_device_batch_size=batch_size,
                  train_dataloader_kwargs={"num_workers": 0})
    return trainer


def still(model, pictures):
    fit(model, model.parameters(), pictures)
    yield model
    freezer = ModelFreezer(model)
    freezer.freeze()
    fit(model, freezer.get_trainable_parameters(), pictures)
    yield model


def still_2(model, pictures):
    fit(model, model.parameters(), pictures)
    yield model
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze()
    fit(model, freezer.get_trainable_parameters(), pictures)
    yield model


def still_3(model, pictures):
    fit(model, model.parameters(), pictures)
    yield model
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze(set_modules_as_eval=True)
    fit(model, freezer.get_trainable_parameters(), pictures)
    yield model


def nothing(model, pictures):
    freezer = ModelFreezer(model)
    freezer.freeze()
    fit(model, freezer.get_trainable_parameters(), pictures)
    yield model


def typo(model, pictures):
    freezer = ModelFreezer(model)
    freezer.freeze(from_index=5, to_index=6)
    fit(model, freezer.get_trainable_parameters(), pictures)
    yield model


def seen(model, pictures):
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze()
    optimizer = AdamW(freezer.get_trainable_parameters(), lr=1e-3, weight_decay=1e-2)
    model.body.eval()
    yield freezer.get_layer_groups(), model
    for x, y in DataLoader(pictures, batch_size=16):
        cross_entropy(model(x), y).backward()
        optimizer.step()
    yield "", model
    yield freezer.get_layer_groups(), model
    fit(model, freezer.get_trainable_parameters(), pictures)
    yield "", model


def undo(model, pictures):
    trainer = fit(model, [p for p in model.parameters() if p.requires_grad], pictures)
    yield model, trainer.optimizer.optimizer
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze()
    freezer.unfreeze()
    yield model, trainer.optimizer.optimizer


def both_phases(model, pictures, folder, shuffle, count_the_rest):
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze()
    optimizer = AdamW(freezer.get_trainable_parameters(), lr=1e-3, weight_decay=1e-2)
    order = {"shuffle": shuffle, "num_workers": 0}
    saved = sorted(folder.glob("epoch_*"))
    if not saved:
        Trainer(model, cross_entropy, optimizer, callbacks=()).train(
            pictures, num_epochs=1, per_device_batch_size=16, train_dataloader_kwargs=order)
    for group in freezer.unfreeze().values():
        optimizer.add_param_group(group)
    save = SaveTrainingStateCallback(folder, save_every_n_epochs=1, save_at_end=False)
    Trainer(model, cross_entropy, optimizer, callbacks=[save]).train(
        pictures, num_epochs=4 - len(saved) * count_the_rest, per_device_batch_size=16,
        train_dataloader_kwargs=order, resume_from=saved[-1] if saved else None)
    return model


def resume(model, pictures, folder, shuffle):
    return both_phases(model, pictures, folder, shuffle, count_the_rest=False)


def resume_2(model, pictures, folder, shuffle):
    return both_phases(model, pictures, folder, shuffle, count_the_rest=True)


def epoch(model, pictures):
    freezer = ModelFreezer(model)
    freezer.freeze()
    return lambda: fit(model, freezer.get_trainable_parameters(), pictures, batch_size=32)


def epoch_2(model, pictures):
    freezer = ModelFreezer(model, freeze_batch_norms=True)
    freezer.freeze()
    return lambda: fit(model, freezer.get_trainable_parameters(), pictures, batch_size=32)
