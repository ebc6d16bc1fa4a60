"""finetuning-scheduler, a callback for Lightning, as its documentation does it: a schedule of phases by regex.

https://finetuning-scheduler.readthedocs.io/en/stable/
"""
from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

WAYS = {
    "still": "a schedule with the head alone",
    "still_2": "the same, with frozen_bn_track_running_stats=False",
    "typo": "by regex",
    "seen": "Lightning's ModelSummary",
    "resume": "FTSCheckpoint, ckpt_path='last'",
    "epoch": "a schedule with the head alone",
}
DOCS = {"": "https://finetuning-scheduler.readthedocs.io/en/stable/",
        "seen": "https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.utilities.model_summary.html"}
NOT_OFFERED = {"undo": "phases only thaw; what is thawed is not frozen again"}


class Classifier(LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        x, y = batch
        loss = cross_entropy(self.model(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        return AdamW(filter(lambda p: p.requires_grad, self.parameters()), lr=1e-3, weight_decay=1e-2)


def trainer(epochs=1, callbacks=(), folder=None):
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks], logger=False,
                   enable_progress_bar=False, default_root_dir=folder)


def scheduler(*phases, **more):
    schedule = {i: {"params": [params], "max_transition_epoch": last} for i, (params, last) in enumerate(phases)}
    return FinetuningScheduler(ft_schedule=schedule, epoch_transitions_only=True, restore_best=False, **more)


def still(model, pictures):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=True), Classifier(model)
    trainer().fit(module, loader)
    yield model
    trainer(callbacks=[scheduler((r"model.head.*", 1))]).fit(module, loader)
    yield model


def still_2(model, pictures):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=True), Classifier(model)
    trainer().fit(module, loader)
    yield model
    trainer(callbacks=[scheduler((r"model.head.*", 1), frozen_bn_track_running_stats=False)]).fit(module, loader)
    yield model


def nothing(model, pictures):
    trainer(callbacks=[scheduler((r"model.*", 1))]).fit(Classifier(model), DataLoader(pictures, batch_size=16))
    yield model


def typo(model, pictures):
    trainer(callbacks=[scheduler((r"model.haed.*", 1))]).fit(Classifier(model), DataLoader(pictures, batch_size=16))
    yield model


def seen(model, pictures):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=True), Classifier(model)
    module.model.body.requires_grad_(False)
    module.model.body.eval()
    yield ModelSummary(module, max_depth=2), model
    trainer(callbacks=[scheduler((r"model.head.*", 1))]).fit(module, loader)
    yield "", model
    module.model.body.train()
    yield ModelSummary(module, max_depth=2), model
    trainer(callbacks=[scheduler((r"model.head.*", 1))]).fit(module, loader)
    yield "", model


def resume(model, pictures, folder, shuffle):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=shuffle), Classifier(model)
    save = FTSCheckpoint(dirpath=folder, save_last=True, monitor="loss", save_on_train_epoch_end=True)
    phases = scheduler((r"model.head.*", 0), (r"model.body.*", 4))
    fit = trainer(5, [phases, save], folder)
    fit.fit(module, loader, ckpt_path="last" if (folder / "last.ckpt").exists() else None)
    return model


def epoch(model, pictures):
    loader, module = DataLoader(pictures, batch_size=32, shuffle=True), Classifier(model)
    return lambda: trainer(callbacks=[scheduler((r"model.head.*", 9))]).fit(module, loader)
