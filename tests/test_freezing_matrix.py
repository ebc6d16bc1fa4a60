"Real architectures, optimizers and fits: what is frozen stays bit for bit, and all the rest moves."
import copy
import re
from functools import partial

import pytest
import timm
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.rnn import rnn_cbs
from fastai.callback.schedule import fine_tune, fit_flat_cos, fit_one_cycle, lr_find  # noqa: F401 (methods)
from fastai.callback.training import BnFreeze, GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.text.models.awdlstm import (AWD_LSTM, awd_lstm_clas_config, awd_lstm_clas_split, awd_lstm_lm_config,
                                        awd_lstm_lm_split)
from fastai.text.models.core import get_language_model, get_text_classifier
from fastai.torch_core import params, set_seed
from fastai.vision.learner import vision_learner
from fastcore.basics import noop
from test_freezing import NORMS, OPTIMIZERS, Items, body_and_head, make_learner, model_with
from torch import nn
from torchvision.models import resnet18

from ft_tutorial.freezing import freeze, frozen, split_by, status, unfreeze


def dataloaders(make_item, count=8, batch_size=4):
    set_seed(0)
    items = Items(make_item(i) for i in range(count))
    return DataLoaders.from_dsets(items, items, bs=batch_size, num_workers=0, device="cpu")


def quiet(learner):
    learner.remove_cb(learner.progress)
    learner.logger = noop
    return learner


def vision(arch, path, **kwargs):
    dls = dataloaders(lambda i: (torch.randn(3, 32, 32), i % 2))
    return quiet(vision_learner(dls, arch, pretrained=False, n_out=2, normalize=False, path=path,
                                loss_func=CrossEntropyLossFlat(), **kwargs))


def text_classifier(path, **kwargs):
    dls = dataloaders(lambda i: (torch.randint(2, 20, (12,)), i % 2))
    config = {**awd_lstm_clas_config, "emb_sz": 8, "n_hid": 8, "n_layers": 2}
    model = get_text_classifier(AWD_LSTM, 20, 2, seq_len=6, config=config, lin_ftrs=[8])
    return quiet(Learner(dls, model, CrossEntropyLossFlat(), splitter=awd_lstm_clas_split, cbs=rnn_cbs(),
                         path=path, **kwargs))


def language_model(path, **kwargs):
    dls = dataloaders(lambda i: (torch.randint(2, 20, (12,)), torch.randint(2, 20, (12,))))
    config = {**awd_lstm_lm_config, "emb_sz": 8, "n_hid": 8, "n_layers": 2}
    model = get_language_model(AWD_LSTM, 20, config)
    return quiet(Learner(dls, model, CrossEntropyLossFlat(), splitter=awd_lstm_lm_split, cbs=rnn_cbs(),
                         path=path, **kwargs))


class Transformer(nn.Module):
    "LayerNorm only, a parameter of its own beside its parts, and a buffer that is a constant."
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.embed = nn.Linear(4, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x * self.scale) + self.token
        return self.head(self.encoder(x).mean(1))


def transformer(path, **kwargs):
    dls = dataloaders(lambda i: (torch.randn(3, 4), i % 2))
    return quiet(Learner(dls, Transformer(), CrossEntropyLossFlat(), path=path,
                         splitter=split_by("token|embed|encoder", "head"), **kwargs))


# How to make it, and which of its tensors (by name) `freeze(learner)` must keep.
LEARNERS = {
    "tiny": (make_learner, r"0\."),
    "plain module with split_by": (partial(make_learner, splitter=split_by(r"0\.", r"1\.")), r"0\."),
    "timm lite0": (partial(vision, "tf_efficientnet_lite0"), r"0\."),
    "torchvision ResNet": (partial(vision, resnet18), r"0\."),
    "LayerNorm": (transformer, "token|scale|embed|encoder"),
    "text classifier": (text_classifier, r"0\.module\."),
    "language model, tied": (language_model, r"0\.(rnns|hidden)"),
}
HEAVY = ("timm lite0", "torchvision ResNet")
FITS = {
    "fit": lambda learner: learner.fit(1, 0.01),
    "fit_one_cycle": lambda learner: learner.fit_one_cycle(1, 0.01),
    "fit_flat_cos": lambda learner: learner.fit_flat_cos(1, 0.01),
    "reset_opt": lambda learner: learner.fit(1, 0.01, reset_opt=True),
    "accumulation": lambda learner: learner.fit(1, 0.01, cbs=GradientAccumulation(8)),
    "lr_find": lambda learner: learner.lr_find(1e-3, 1e-1, num_it=6, stop_div=False, show_plot=False,
                                               suggest_funcs=None),
    "bf16": lambda learner: learner.fit(1, 0.01, cbs=MixedPrecision(amp_mode="bf16")),
}


class Watch(Callback):
    "After each batch: which tensors differ from those at the start (a fit may set them back at its end)."
    def __init__(self, model):
        self.before, self.moved = copy.deepcopy(model.state_dict()), set()

    def after_batch(self):
        self.moved |= {n for n, v in self.model.state_dict().items() if not v.equal(self.before[n])}


def moved_by(learner, fit):
    watch = Watch(learner.model)
    with learner.added_cbs([watch]):
        fit(learner)
    now = learner.model.state_dict()
    return watch.moved | {n for n, v in now.items() if not v.equal(watch.before[n])}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", LEARNERS)
def test_frozen_stays_and_the_rest_moves(tmp_path, kind, optimizer):
    make, pattern = LEARNERS[kind]
    learner = make(tmp_path, opt_func=OPTIMIZERS[optimizer])
    parameters = dict(learner.model.named_parameters())
    still = {name for name in learner.model.state_dict() if re.match(pattern, name)}
    control = moved_by(learner, FITS["fit"])
    # The gradient of a bias before BatchNorm is zero but for rounding.
    assert all(name.endswith("bias") for name in parameters.keys() - control)
    assert freeze(learner).ok
    fits = ["fit", "lr_find", "reset_opt", "bf16"] if kind in HEAVY and optimizer != "Adam" else FITS
    for name in fits:
        moved = moved_by(learner, FITS[name])
        assert not moved & still, name
        assert moved >= (control & parameters.keys()) - still, name
    unfreeze(learner)
    assert control - moved_by(learner, FITS["fit"]) <= {name for name in control if name.endswith("bias")}


@pytest.mark.parametrize("kind", LEARNERS)
def test_survives_files(tmp_path, kind):
    make, pattern = LEARNERS[kind]
    learner = make(tmp_path)
    freeze(learner)
    learner.fit(1, 0.01)
    for with_opt in [True, False]:
        learner.save("frozen", with_opt=with_opt)
        other = make(tmp_path).load("frozen", with_opt=with_opt)
        moved = moved_by(other, FITS["fit"])
        assert moved and not any(re.match(pattern, name) for name in moved)
        assert repr(status(other)).replace("0.01", "0.001") == repr(status(learner)).replace("0.01", "0.001")


@pytest.mark.parametrize("kind", ["timm lite0", "torchvision ResNet", "LayerNorm"])
def test_survives_export_and_deepcopy(tmp_path, kind):
    make, pattern = LEARNERS[kind]
    learner = make(tmp_path)
    freeze(learner)
    dls = learner.dls
    learner.export("learner.pkl")
    exported = load_learner(tmp_path / "learner.pkl")
    exported.dls = dls
    for copied in [exported, copy.deepcopy(learner)]:
        moved = moved_by(copied, FITS["fit"])
        assert moved and not any(re.match(pattern, name) for name in moved)


def seeded_model(norm):
    set_seed(3)
    return model_with(norm)


CALLS = {
    "freeze": lambda learner: learner.freeze(),
    "unfreeze": lambda learner: learner.unfreeze(),
    "freeze_to": lambda learner: learner.freeze_to(1),
    "fine_tune": lambda learner: learner.fine_tune(1, 0.01),
}


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("norm", NORMS)
def test_fastais_later_call_is_fastais(tmp_path, norm, call, train_bn):
    theirs, ours, control = [make_learner(tmp_path, seeded_model(NORMS[norm]), train_bn=train_bn) for _ in range(3)]
    freeze(ours)
    freeze(control)
    for learner in [theirs, ours]:
        CALLS[call](learner)
        set_seed(1)
        learner.fit(1, 0.1)
    set_seed(1)
    control.fit(1, 0.1)
    assert repr(status(theirs)) == repr(status(ours))
    for name, value in theirs.model.state_dict().items():
        assert value.equal(ours.model.state_dict()[name]), name
    if call == "unfreeze":
        assert not theirs.model[0][0].bias.equal(control.model[0][0].bias)


def three_groups(model):
    return [params(model[0][0]), params(model[0][1]), params(model[1])]


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize("index", [1, 2, -1])
@pytest.mark.parametrize("norm", ["batch", "synchronised batch", "layer", "instance with weights"])
def test_batchnorm_train_is_fastais_freeze(tmp_path, norm, index, train_bn):
    def instance():
        return nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
                             nn.Flatten())

    make = NORMS.get(norm, instance)
    theirs, ours = [make_learner(tmp_path, seeded_model(make), three_groups, train_bn=train_bn) for _ in range(2)]
    theirs.freeze_to(index)
    freeze(ours, index, batchnorm="train")
    for learner in [theirs, ours]:
        set_seed(1)
        learner.fit(2, 0.1)
    for name, value in theirs.model.state_dict().items():
        assert value.equal(ours.model.state_dict()[name]), name
    assert theirs.opt.frozen_idx == ours.opt.frozen_idx
    states = [learner.opt.state_dict()["state"] for learner in [theirs, ours]]
    assert any("grad_avg" in state for state in states[0])
    for one, other in zip(*states):
        assert one.keys() == other.keys()
        assert all(torch.as_tensor(one[key]).equal(torch.as_tensor(other[key])) for key in one)


def train_by_hand(model, optimizer, steps=3):
    for _ in range(steps):
        model.train()
        optimizer.zero_grad(set_to_none=False)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", [partial(torch.optim.AdamW, weight_decay=0.1), torch.optim.RMSprop,
                                       partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)])
@pytest.mark.parametrize("norm", NORMS)
def test_hand_written_loop(norm, optimizer):
    set_seed(0)
    model = model_with(NORMS[norm])
    optimizer = optimizer(model.parameters(), lr=0.01)
    train_by_hand(model, optimizer)  # leaves gradients and momentum behind
    before = copy.deepcopy(model.state_dict())
    assert freeze(model, model[0]).ok
    train_by_hand(model, optimizer)
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"1.weight", "1.bias"}
    with frozen(model, "1"):
        train_by_hand(model, optimizer)
    train_by_hand(model, optimizer)
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert "0.0.bias" in moved


def test_a_module_has_no_group_index():
    with pytest.raises(ValueError, match="a module has no parameter groups"):
        freeze(model_with())


def test_tied_weights_of_a_language_model(tmp_path):
    learner = language_model(tmp_path)
    with pytest.raises(ValueError, match="one shared parameter"):
        freeze(learner, r"0\.encoder\.")
    freeze(learner, [r"0\.encoder", r"1\.decoder\.weight"])
    moved = moved_by(learner, FITS["fit"])
    assert not moved & {"0.encoder.weight", "0.encoder_dp.emb.weight", "1.decoder.weight"}
    assert "1.decoder.bias" in moved and "0.rnns.0.weight_hh_l0_raw" in moved


class MovingCodebook(nn.Module):
    "Keeps numbers of its own in a buffer, has a trainable layer and dropout inside."
    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.zeros(8))
        self.linear, self.dropout = nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x):
        if self.training:
            self.codes.mul_(0.9).add_(x.mean(0).detach(), alpha=0.1)
        return self.dropout(self.linear(x)) - self.codes


@pytest.mark.parametrize("layer", [MovingCodebook, lambda: timm.layers.EvoNorm2dB0(8)])
def test_layers_that_nobody_has_heard_of(layer):
    images = not isinstance(layer, type)
    first = nn.Conv2d(3, 8, 1) if images else nn.Linear(4, 8)
    model = nn.Sequential(first, layer(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(4, 3, 2, 2) if images else torch.randn(4, 4)
    model(x)

    def changed():
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        model(x).square().mean().backward()
        optimizer.step()
        return {name for name, value in model.state_dict().items() if not value.equal(before[name])}

    assert any(name.startswith("1.") for name in changed())
    freeze(model, "0|1")
    model(x)
    dropouts = [m for m in model[1].modules() if isinstance(m, nn.Dropout)]
    assert all(dropout.training for dropout in dropouts)  # regularization is not what was frozen
    assert changed() == {"3.weight", "3.bias"}
    unfreeze(model)
    assert any(name.startswith("1.") for name in changed())


@pytest.mark.parametrize("modes", [(True, True), (True, False), (False, False)])
def test_modes_and_hooks_come_back(modes):
    model = model_with()
    model.train(modes[0])
    model[0][1].train(modes[1])
    calls = []
    model[0][1].register_forward_pre_hook(lambda module, inputs: calls.append(module.training))
    before = [m.training for m in model.modules()], [list(m._forward_pre_hooks.values()) for m in model.modules()]
    for _ in range(2):
        with frozen(model, "0"):
            model(torch.randn(4, 4))
        freeze(model, "0")
        unfreeze(model)
    assert calls == [False, False]  # the user's own hook still runs, after the layer was made still
    assert before == ([m.training for m in model.modules()],
                      [list(m._forward_pre_hooks.values()) for m in model.modules()])


def test_an_unknown_layer_with_a_trainable_part_is_not_held():
    model = nn.Sequential(nn.Linear(4, 8), MovingCodebook(), nn.Linear(8, 2))
    freeze(model, "0")
    before = model[1].codes.clone()
    model.train()(torch.randn(4, 4))
    assert not model[1].codes.equal(before)


@pytest.mark.parametrize("norm", ["batch", "instance with weights"])
def test_status_knows_which_layers_bn_freeze_holds(tmp_path, norm):
    def instance():
        return nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
                             nn.Flatten())

    learner = make_learner(tmp_path, model_with(NORMS.get(norm, instance)), train_bn=False, cbs=BnFreeze)
    learner.freeze()
    says = status(learner).rows[0]["norm_layers"], status(learner).ok
    moved = moved_by(learner, FITS["fit"])
    moves = any("running_mean" in name for name in moved)
    assert says == ("1 of 1 move" if moves else "0 of 1 move", not moves)
    assert moves == (norm != "batch")


def test_a_file_does_not_freeze_what_was_unfrozen_by_hand(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner)
    learner.model.requires_grad_(True)
    learner.save("by hand")
    other = make_learner(tmp_path).load("by hand")
    assert all(p.requires_grad for p in other.model.parameters())


def test_unfreezing_a_part(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner)
    unfreeze(learner, r"0\.0")
    moved = moved_by(learner, FITS["fit"])
    assert "0.0.weight" in moved and not any(name.startswith("0.1") for name in moved)


def test_status_accounts_for_every_parameter(tmp_path):
    model = model_with()
    model[0].requires_grad_(False)
    for learner in [make_learner(tmp_path, model, lambda m: [p for p in m.parameters() if p.requires_grad]),
                    vision(resnet18, tmp_path), language_model(tmp_path)]:
        for _ in range(2):  # before and after the optimizer is made
            rows = status(learner).rows
            assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in learner.model.parameters())
            held = {True: "yes", False: "when made"}[learner.opt is not None]
            assert {row["in_optimizer"] for row in rows if row["group"] != "none"} == {held}
            learner.create_opt()
    frame = status(learner).to_frame()
    assert list(frame) == ["group", "name", "parameters", "trainable", "norm_layers", "in_optimizer", "lr"]
