"""peft, as its guide to models of one's own does it: LoRA on the layers of the body, the head trained whole.

https://huggingface.co/docs/peft/developer_guides/custom_models
https://huggingface.co/docs/peft/developer_guides/troubleshooting
"""
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.utils.data import DataLoader

from .jobs import tensors

GUIDE = "https://huggingface.co/docs/peft/developer_guides/custom_models"
WAYS = {
    "still": "LoRA, head in modules_to_save",
    "still_2": "LoRA, head and norm layers in modules_to_save",
    "seen": "get_model_status",
    "undo": "get_peft_model, unload",
    "epoch": "LoRA, head in modules_to_save",
}
DOCS = {"": GUIDE, "still_2": "https://huggingface.co/docs/peft/developer_guides/troubleshooting",
        "undo": "https://huggingface.co/docs/peft/package_reference/lora"}
NOT_OFFERED = {"resume": "the loop is the user's; what is saved is the adapter, without an optimizer"}


class base:
    "What the scoreboard compares: the weights of the base model, under the names that they had."
    def __init__(self, adapted):
        self.parts = {}
        for name, (kind, value) in tensors(adapted).items():
            name = name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
            if "lora_" not in name and not (name.startswith("body") and "modules_to_save" in name):
                self.parts[name.replace(".modules_to_save.default.", ".trained.")] = (kind, value)
        trained = [name for name in self.parts if ".trained." in name]
        for name in trained:  # the head that learns stands for the head
            self.parts[name.replace(".trained.", ".")] = self.parts.pop(name)

    def __getattr__(self, part):
        return {name.removeprefix(f"{part}."): found for name, found in self.parts.items() if name.startswith(f"{part}.")}


def train(model, loader):
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def still(model, pictures):
    loader = DataLoader(pictures, batch_size=16, shuffle=True)
    train(model, loader)
    yield model
    adapted = get_peft_model(model, LoraConfig(target_modules=r"body\.\d\.0", modules_to_save=["head.2"]))
    train(adapted, loader)
    yield base(adapted)


def still_2(model, pictures):
    loader = DataLoader(pictures, batch_size=16, shuffle=True)
    train(model, loader)
    yield model
    norms = [f"body.{block}.1" for block in range(4)]
    adapted = get_peft_model(model, LoraConfig(target_modules=r"body\.\d\.0", modules_to_save=["head.2", *norms]))
    train(adapted, loader)
    yield base(adapted)


def nothing(model, pictures):
    adapted = get_peft_model(model, LoraConfig(target_modules=["body"], modules_to_save=["head"]))
    train(adapted, DataLoader(pictures, batch_size=16))
    yield adapted


def typo(model, pictures):
    adapted = get_peft_model(model, LoraConfig(target_modules=r"bdoy\.\d\.0", modules_to_save=["head.2"]))
    train(adapted, DataLoader(pictures, batch_size=16))
    yield adapted


def shown(adapted):
    trainable, everything = adapted.get_nb_trainable_parameters()
    return f"trainable params: {trainable:,} || all params: {everything:,}\n{adapted.get_model_status()}"


def seen(model, pictures):
    loader = DataLoader(pictures, batch_size=16, shuffle=True)
    adapted = get_peft_model(model, LoraConfig(target_modules=r"body\.\d\.0", modules_to_save=["head.2"]))
    optimizer = AdamW(adapted.parameters(), lr=1e-3, weight_decay=1e-2)
    adapted.eval()
    yield shown(adapted), base(adapted)
    for x, y in loader:
        cross_entropy(adapted(x), y).backward()
        optimizer.step()
    yield "", base(adapted)
    yield shown(adapted), base(adapted)
    train(adapted, loader)
    yield "", base(adapted)


def undo(model, pictures):
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    for x, y in DataLoader(pictures, batch_size=16):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    yield model, optimizer
    adapted = get_peft_model(model, LoraConfig(target_modules=r"body\.\d\.0", modules_to_save=["head.2"]))
    model = adapted.unload()
    yield model, optimizer


def epoch(model, pictures):
    from torch.nn import Conv2d
    loader = DataLoader(pictures, batch_size=32, shuffle=True)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, Conv2d)]
    adapted = get_peft_model(model, LoraConfig(target_modules=convolutions, modules_to_save=["head"]))
    return lambda: train(adapted, loader)
