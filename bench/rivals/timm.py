"""timm's `freeze` and `unfreeze`, in a loop of plain PyTorch, which its own training script is too.

https://github.com/huggingface/pytorch-image-models/blob/main/timm/utils/model.py
https://huggingface.co/docs/timm/training_script
"""
from timm.utils import freeze, unfreeze
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

WAYS = {
    "still": "freeze(model, ['body'])",
    "undo": "freeze, unfreeze",
    "epoch": "freeze(model, ['body'])",
}
DOCS = {"": "https://github.com/huggingface/pytorch-image-models/blob/main/timm/utils/model.py",
        "resume": "https://huggingface.co/docs/timm/training_script"}
NOT_OFFERED = {"seen": "no call shows what is frozen",
               "resume": "the loop is the user's; the training script has --resume, but no frozen phase"}


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def still(model, pictures):
    loader = DataLoader(pictures, batch_size=16, shuffle=True)
    train(model, loader, AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2))
    yield model
    freeze(model, ["body"])
    train(model, loader, AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2))
    yield model


def nothing(model, pictures):
    freeze(model, ["body"])
    yield model


def typo(model, pictures):
    freeze(model, ["bdoy"])
    yield model


def undo(model, pictures):
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    train(model, DataLoader(pictures, batch_size=16), optimizer)
    yield model, optimizer
    freeze(model, ["body"])
    unfreeze(model, ["body"])
    yield model, optimizer


def epoch(model, pictures):
    loader = DataLoader(pictures, batch_size=32, shuffle=True)
    freeze(model, ["body"])
    optimizer = AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2)
    return lambda: train(model, loader, optimizer)
