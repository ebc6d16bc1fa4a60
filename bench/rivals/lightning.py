"""Lightning, as its documentation does it: `BackboneFinetuning`, and the page on transfer learning.

https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.BackboneFinetuning.html
https://lightning.ai/docs/pytorch/stable/advanced/transfer_learning.html
"""
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, ModelCheckpoint
from lightning.pytorch.utilities.model_summary import ModelSummary
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

CALLBACK = "https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.BackboneFinetuning.html"
BASE = "https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.BaseFinetuning.html"
TRANSFER = "https://lightning.ai/docs/pytorch/stable/advanced/transfer_learning.html"
WAYS = {
    "still": "BackboneFinetuning",
    "still_2": "eval() and no_grad, from the page on transfer learning",
    "still_3": "BaseFinetuning.freeze(train_bn=False)",
    "typo": "another attribute than backbone",
    "seen": "ModelSummary",
    "undo": "BaseFinetuning.freeze, make_trainable",
    "resume": "ModelCheckpoint, ckpt_path='last'",
    "epoch": "BackboneFinetuning",
    "epoch_2": "eval() and no_grad, from the page on transfer learning",
}
DOCS = {"": CALLBACK, "still_2": TRANSFER, "still_3": BASE, "undo": BASE, "epoch_2": TRANSFER,
        "seen": "https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.utilities.model_summary.html",
        "resume": "https://lightning.ai/docs/pytorch/stable/common/checkpointing_basic.html"}
NOT_OFFERED = {}


class Classifier(LightningModule):
    def __init__(self, model):
        super().__init__()
        self.backbone, self.head = model.body, model.head

    def training_step(self, batch, index):
        x, y = batch
        return cross_entropy(self.head(self.backbone(x)), y)

    def configure_optimizers(self):
        return AdamW(filter(lambda p: p.requires_grad, self.parameters()), lr=1e-3, weight_decay=1e-2)


class ClassifierOnFrozen(Classifier):
    def training_step(self, batch, index):
        x, y = batch
        self.backbone.eval()
        with torch.no_grad():
            representations = self.backbone(x)
        return cross_entropy(self.head(representations), y)

    def configure_optimizers(self):
        return AdamW(self.head.parameters(), lr=1e-3, weight_decay=1e-2)


class FreezeBackbone(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.backbone, train_bn=False)

    def finetune_function(self, module, epoch, optimizer):
        pass


def trainer(epochs=1, callbacks=(), folder=None, save=False):
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks], logger=False,
                   enable_progress_bar=False, enable_checkpointing=save, default_root_dir=folder)


def still(model, pictures):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=True), Classifier(model)
    trainer().fit(module, loader)
    yield model
    trainer(callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=10)]).fit(module, loader)
    yield model


def still_2(model, pictures):
    loader = DataLoader(pictures, batch_size=16, shuffle=True)
    trainer().fit(Classifier(model), loader)
    yield model
    trainer().fit(ClassifierOnFrozen(model), loader)
    yield model


def still_3(model, pictures):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=True), Classifier(model)
    trainer().fit(module, loader)
    yield model
    trainer(callbacks=[FreezeBackbone()]).fit(module, loader)
    yield model


def nothing(model, pictures):
    trainer(callbacks=[BackboneFinetuning()]).fit(Classifier(model), DataLoader(pictures, batch_size=16))
    yield model


class ClassifierMisspelt(Classifier):
    def __init__(self, model):
        LightningModule.__init__(self)
        self.bakcbone, self.head = model.body, model.head


def typo(model, pictures):
    trainer(callbacks=[BackboneFinetuning()]).fit(ClassifierMisspelt(model), DataLoader(pictures, batch_size=16))
    yield model


def seen(model, pictures):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=True), Classifier(model)
    module.backbone.requires_grad_(False)
    module.backbone.eval()
    yield ModelSummary(module), model
    trainer().fit(module, loader)
    yield "", model
    module.backbone.train()
    yield ModelSummary(module), model
    trainer().fit(module, loader)
    yield "", model


def undo(model, pictures):
    module = Classifier(model)
    fit = trainer()
    fit.fit(module, DataLoader(pictures, batch_size=16))
    yield model, fit.optimizers[0]
    BaseFinetuning.freeze(module.backbone, train_bn=False)
    BaseFinetuning.make_trainable(module.backbone)
    yield model, fit.optimizers[0]


def resume(model, pictures, folder, shuffle):
    loader, module = DataLoader(pictures, batch_size=16, shuffle=shuffle), Classifier(model)
    save = ModelCheckpoint(dirpath=folder, save_last=True)
    fit = trainer(5, [BackboneFinetuning(unfreeze_backbone_at_epoch=1), save], folder, save=True)
    fit.fit(module, loader, ckpt_path="last" if (folder / "last.ckpt").exists() else None)
    return model


def epoch(model, pictures):
    loader, module = DataLoader(pictures, batch_size=32, shuffle=True), Classifier(model)
    return lambda: trainer(callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=10)]).fit(module, loader)


def epoch_2(model, pictures):
    loader, module = DataLoader(pictures, batch_size=32, shuffle=True), ClassifierOnFrozen(model)
    return lambda: trainer().fit(module, loader)
