"""Plain PyTorch, as its tutorials do it.

https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html
https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html
"""
import torch
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

WAYS = {
    "still": "as in the tutorial",
    "still_2": "body.eval() in the loop",
    "typo": "by the start of names",
    "typo_2": "by attribute",
    "resume": "state_dict of model and optimizer",
    "epoch": "by hand, the body in eval and no_grad",
    "epoch_2": "as in the tutorial",
}
DOCS = {"resume": "https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html",
        "": "https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html"}
NOT_OFFERED = {"seen": "print(model) says nothing of requires_grad or of modes"}


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
    for parameter in model.body.parameters():
        parameter.requires_grad = False
    train(model, loader, AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2))
    yield model


def still_2(model, pictures):
    loader = DataLoader(pictures, batch_size=16, shuffle=True)
    train(model, loader, AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2))
    yield model
    for parameter in model.body.parameters():
        parameter.requires_grad = False
    optimizer = AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2)
    model.train()
    model.body.eval()
    for x, y in loader:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    yield model


def nothing(model, pictures):
    for parameter in model.body.parameters():
        parameter.requires_grad = False
    yield model


def typo(model, pictures):
    for name, parameter in model.named_parameters():
        if name.startswith("bdoy"):
            parameter.requires_grad = False
    yield model


def typo_2(model, pictures):
    model.bdoy.requires_grad_(False)
    yield model


def undo(model, pictures):
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    train(model, DataLoader(pictures, batch_size=16), optimizer)
    yield model, optimizer
    for parameter in model.body.parameters():
        parameter.requires_grad = False
    for parameter in model.body.parameters():
        parameter.requires_grad = True
    yield model, optimizer


def resume(model, pictures, folder, shuffle):
    loader = DataLoader(pictures, batch_size=16, shuffle=shuffle)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    done, path = 0, folder / "checkpoint.pt"
    if path.exists():
        checkpoint = torch.load(path)
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        done = checkpoint["epoch"]
    for done in range(done, 5):
        for parameter in model.body.parameters():
            parameter.requires_grad = done > 0
        train(model, loader, optimizer)
        torch.save({"epoch": done + 1, "model_state_dict": model.state_dict(),
                    "optimizer_state_dict": optimizer.state_dict()}, path)
    return model


def epoch(model, pictures):
    loader = DataLoader(pictures, batch_size=32, shuffle=True)
    optimizer = AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2)

    def run():
        model.train()
        model.body.eval()
        for x, y in loader:
            with torch.no_grad():
                features = model.body(x)
            optimizer.zero_grad()
            loss = cross_entropy(model.head(features), y)
            loss.backward()
            optimizer.step()
    return run


def epoch_2(model, pictures):
    loader = DataLoader(pictures, batch_size=32, shuffle=True)
    for parameter in model.body.parameters():
        parameter.requires_grad = False
    optimizer = AdamW(model.head.parameters(), lr=1e-3, weight_decay=1e-2)
    return lambda: train(model, loader, optimizer)
