"The promise of `freeze` over many kinds of norm layer, optimizer and fit."
import copy
import pickle
from functools import partial

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import fit_flat_cos, fit_one_cycle, lr_find  # noqa: F401 (methods)
from fastai.callback.training import BnFreeze, GradientAccumulation
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastcore.basics import noop
from fastai.optimizer import SGD, Adam, OptimWrapper, ranger
from fastai.torch_core import params, set_seed, trainable_params
from torch import nn

from ft_tutorial.cutting import find_cut
from ft_tutorial.finetuning import fine_tune
from ft_tutorial.freezing import _HoldStill, freeze, frozen, split_by, status, unfreeze
from ft_tutorial.movement import moved
from ft_tutorial.plans import plan
from ft_tutorial.states import _release

torch.set_num_threads(1)


class Items(list):
    def new_empty(self):
        return Items()


def body_and_head(model):
    return [params(model[0]), params(model[1])]


def model_with(norm=lambda: nn.BatchNorm1d(8)):
    body = nn.Sequential(nn.Linear(4, 8), norm(), nn.ReLU())
    return nn.Sequential(body, nn.Linear(8, 3))


def make_learner(path, model=None, splitter=body_and_head, **kwargs):
    set_seed(0)
    x = torch.randn(64, 4)
    items = Items(zip(x, (x[:, 0] > 0).long()))
    dls = DataLoaders.from_dsets(items, items, bs=16, num_workers=0, device="cpu")
    learner = Learner(dls, model or model_with(), loss_func=CrossEntropyLossFlat(), splitter=splitter,
                      path=path, **kwargs)
    learner.remove_cb(learner.progress)
    learner.logger = noop
    return learner


def account(learner):
    "All but the tensors: what learns, modes, hooks, callbacks, and what fastai believes."
    modules = list(learner.model.modules())
    hooks = [list(m._forward_pre_hooks.values()) + list(m._forward_hooks.values())
             + list(m._state_dict_hooks.values()) for m in modules]
    opt = learner.opt
    return [[p.requires_grad for p in learner.model.parameters()], [m.training for m in modules], hooks,
            list(learner.cbs), learner.splitter, opt.frozen_idx if opt else 0]


def changed(model, train):
    before = copy.deepcopy(model.state_dict())
    train()
    return [name for name, value in model.state_dict().items() if not value.equal(before[name])]


def instance_norm():
    return nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten())


NORMS = {
    "batch": lambda: nn.BatchNorm1d(8),
    "batch without weights": lambda: nn.BatchNorm1d(8, affine=False),
    "synchronised batch": lambda: nn.SyncBatchNorm(8),
    "layer": lambda: nn.LayerNorm(8),
    "instance": instance_norm,
    "old spectral": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
}
OPTIMIZERS = {
    "Adam": Adam,
    "SGD": partial(SGD, mom=0.9),
    "AdamW of PyTorch": partial(OptimWrapper, opt=torch.optim.AdamW),
}
FITS = {
    "fit": lambda learner: learner.fit(2, 0.1),
    "fit_one_cycle": lambda learner: learner.fit_one_cycle(1, 0.1),
    "fit_flat_cos": lambda learner: learner.fit_flat_cos(1, 0.1),
    "reset_opt": lambda learner: learner.fit(1, 0.1, reset_opt=True),
    "accumulation": lambda learner: learner.fit(1, 0.1, cbs=GradientAccumulation(32)),
}
HEAD = ["1.weight", "1.bias"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("norm", NORMS)
def test_frozen_is_bit_identical_after_every_fit(tmp_path, norm, optimizer):
    learner = make_learner(tmp_path, model_with(NORMS[norm]), opt_func=OPTIMIZERS[optimizer])
    rounding = {"0.bias"}  # before a norm layer that takes the mean away its gradient is nothing else
    body = {*changed(learner.model[0], lambda: learner.fit(1, 0.1))} - rounding
    assert "0.weight" in body  # the control moves
    assert freeze(learner).ok
    for fit in FITS.values():
        assert changed(learner.model, lambda: fit(learner)) == HEAD
    assert changed(learner.model, lambda: learner.lr_find(show_plot=False)) == []
    unfreeze(learner)
    assert not any(isinstance(hook, _HoldStill) for module in learner.model.modules()
                   for hook in module._forward_pre_hooks.values())
    assert {*changed(learner.model[0], lambda: learner.fit(1, 0.1))} - rounding == body


def test_mixed_precision(tmp_path):
    learner = make_learner(tmp_path, cbs=MixedPrecision(amp_mode="bf16"))
    freeze(learner)
    assert changed(learner.model, lambda: learner.fit(1, 0.1)) == HEAD


def test_optimizer_state_of_what_stays_trainable_is_kept(tmp_path):
    learner = make_learner(tmp_path)
    learner.fit(1, 0.1)
    head = learner.model[1].weight
    momentum = learner.opt.state[head]["grad_avg"].clone()
    freeze(learner)
    assert learner.opt.state[head]["grad_avg"].equal(momentum)
    learner.freeze()  # the control: fastai's drops it
    assert "grad_avg" not in learner.opt.state[head]


def test_freeze_then_unfreeze_leaves_no_trace(tmp_path):
    learner = make_learner(tmp_path, splitter=trainable_params)
    learner.fit(1, 0.1)
    before = pickle.dumps(learner.model), [m.training for m in learner.model.modules()], list(learner.cbs)
    freeze(learner, r"0\.")
    freeze(learner, r"1\.")
    with frozen(learner, r"0\.0"):
        with frozen(learner, r"0\.1"):
            pass
    unfreeze(learner)
    assert before == (pickle.dumps(learner.model), [m.training for m in learner.model.modules()], list(learner.cbs))
    assert learner.splitter is trainable_params and learner.opt.frozen_idx == 0


def test_nested_frozen_restores_the_outer_freeze(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner)
    with frozen(learner, "1"):
        names = changed(learner.model, lambda: learner.fit(1, 0.1))
        assert "0.1.running_mean" in names and "1.weight" not in names
    assert changed(learner.model, lambda: learner.fit(1, 0.1)) == HEAD


@pytest.mark.parametrize("with_opt", [True, False])
@pytest.mark.parametrize("splitter", [body_and_head, trainable_params])
def test_survives_save_and_load(tmp_path, with_opt, splitter):
    learner = make_learner(tmp_path, splitter=splitter)
    freeze(learner, r"0\.")
    learner.fit(1, 0.1)
    learner.save("frozen", with_opt=with_opt)
    other = make_learner(tmp_path, splitter=splitter).load("frozen", with_opt=with_opt)
    assert changed(other.model, lambda: other.fit(1, 0.1)) == HEAD
    unfreeze(other)
    assert "0.0.weight" in changed(other.model, lambda: other.fit(1, 0.1))


@pytest.mark.parametrize("splitter", [body_and_head, trainable_params])
def test_survives_export_deepcopy_and_pickle(tmp_path, splitter):
    learner = make_learner(tmp_path, splitter=splitter)
    freeze(learner, r"0\.")
    learner.fit(1, 0.1)
    dls = learner.dls
    learner.export("learner.pkl")
    exported = load_learner(tmp_path / "learner.pkl")
    exported.dls = dls
    for copied in [exported, copy.deepcopy(learner)]:
        assert changed(copied.model, lambda: copied.fit(1, 0.1)) == HEAD
    model = pickle.loads(pickle.dumps(learner.model))
    assert not any(p.requires_grad for p in model[0].parameters())
    model.train()(torch.randn(16, 4))
    assert model[0][1].running_mean.equal(learner.model[0][1].running_mean)


def test_tied_weights_are_named(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
            self.decoder.weight = self.encoder.weight

    with pytest.raises(ValueError, match="encoder.weight and decoder.weight are one shared parameter"):
        freeze(Tied(), "encoder")
    freeze(Tied(), [r"encoder\.weight", r"decoder\.weight"])


def fastai_one_group(path):
    learner = make_learner(path, splitter=trainable_params)
    learner.freeze()
    return learner


def fastai_weight_decay(path):
    learner = make_learner(path)
    learner.fit(1)
    learner.freeze()
    return learner


def fastai_bn_freeze(path):
    learner = make_learner(path, cbs=BnFreeze)
    learner.freeze()
    return learner


def fastai_frozen_before(path):
    model = model_with()
    model[0].requires_grad_(False)
    return make_learner(path, model, splitter=trainable_params)


def fastai_reset(path):
    learner = make_learner(path)
    learner.freeze()
    learner.fit(1, reset_opt=True)
    return learner


def fastai_freeze_to(path):
    learner = make_learner(path)
    learner.freeze_to(-5)
    return learner


def fastai_one_rate(path):
    learner = make_learner(path)
    learner.unfreeze()
    learner.fit(1, 1e-2)
    return learner


def fastai_frozen(path):
    learner = make_learner(path)
    learner.freeze()
    return learner


@pytest.mark.parametrize("make, said", [
    (fastai_one_group, "one parameter group"),
    (fastai_weight_decay, "weight decay moves"),
    (fastai_bn_freeze, "BnFreeze has no effect"),
    (fastai_frozen_before, "optimizer does not hold"),
    (fastai_reset, "learner.summary"),
    (fastai_freeze_to, "freeze_to"),
    (fastai_one_rate, "at one rate"),
    (fastai_frozen, "go on moving"),
])
def test_status_finds_it_on_a_plain_fastai_learner(tmp_path, make, said):
    assert said in repr(status(make(tmp_path)))
    clean = make_learner(tmp_path)
    freeze(clean)
    assert said not in repr(status(clean)) and status(clean).ok  # the control


def test_parameters_that_the_optimizer_never_saw_are_refused(tmp_path):
    learner = fastai_frozen_before(tmp_path)
    with pytest.raises(ValueError, match="the optimizer does not hold 0.0.weight"):
        unfreeze(learner)
    assert not learner.model[0][0].weight.requires_grad


@pytest.mark.parametrize("patterns, said", [
    (("0",), r"1\.weight is in no group: .* one of '0'"),
    (("0", "[01]"), r"0\.0\.weight is in 2 groups, '0' and '\[01\]': .* one of '0', '\[01\]'"),
    (("0", "1", "head"), "'head'"),
])
def test_split_by_refuses_what_does_not_fit(patterns, said):
    with pytest.raises(ValueError, match=said):
        split_by(*patterns)(model_with())


def test_a_file_does_not_bring_back_an_older_freeze(tmp_path):
    learner = make_learner(tmp_path, model_with(lambda: nn.Linear(8, 8)))
    freeze(learner, r"0\.0")
    learner.freeze()  # fastai's, later: it holds
    learner.save("later")
    learner.load("later")
    assert not learner.model[0][1].weight.requires_grad and status(learner).notes == []


def test_unfreezing_a_part_leaves_the_rest_frozen(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner)
    unfreeze(learner, r"0\.0\.weight")
    assert changed(learner.model, lambda: learner.fit(1, 0.1)) == ["0.0.weight", *HEAD]
    unfreeze(learner, r"0\.")
    assert all(p.requires_grad for p in learner.model.parameters())
    assert "0.1.running_mean" in changed(learner.model, lambda: learner.fit(1, 0.1))  # the control


def test_fastais_own_call_leaves_nothing_of_ours_to_export(tmp_path):
    learner = make_learner(tmp_path, splitter=trainable_params)
    freeze(learner, r"0\.")
    assert b"ft_tutorial" in pickle.dumps(learner.splitter)  # the control
    learner.freeze_to(0)
    assert b"ft_tutorial" not in pickle.dumps(learner.splitter) and learner.splitter is trainable_params


def test_a_file_that_froze_what_is_not_there_is_refused(tmp_path):
    "`strict=False` loads what fits; that the freeze does not fit is said."
    saved = make_learner(tmp_path)
    freeze(saved)
    saved.save("frozen", with_opt=False)
    learner = make_learner(tmp_path, model_with(nn.Identity))
    with pytest.raises(ValueError, match=r"frozen parameters that this model does not have: 0\.1\.bias, 0\.1\.weight\. "
                                         "Its other weights are loaded"):
        learner.load("frozen", with_opt=False, strict=False)
    assert learner.model[1].weight.equal(saved.model[1].weight) and all(p.requires_grad for p in learner.model.parameters())
    make_learner(tmp_path).load("frozen", with_opt=False)  # the control: where all is there, all is well


def test_a_file_keeps_fastais_index(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner, batchnorm="train")
    learner.save("train")
    other = make_learner(tmp_path).load("train")
    assert other.opt.frozen_idx == learner.opt.frozen_idx == 1


@pytest.mark.parametrize("norm", ["batch without weights", "spectral"])
def test_fine_tune_trains_every_layer_that_is_no_norm_layer(tmp_path, norm):
    learner = make_learner(tmp_path, model_with(NORMS[norm]))
    names = changed(learner.model, lambda: fine_tune(learner, 1))
    assert "0.0.weight" in names and "1.weight" in names


@pytest.mark.parametrize("strict", [True, False])
def test_lookahead_does_not_bring_back_old_weights(tmp_path, strict):
    "Lookahead steps every parameter back to a copy that it keeps; fastai's freeze does not tell it."
    learner = make_learner(tmp_path, model_with(lambda: nn.LayerNorm(8)), opt_func=ranger)
    freeze(learner)  # before it keeps any copy
    unfreeze(learner)
    learner.fit(1, 0.01)
    freeze(learner) if strict else learner.freeze()
    names = changed(learner.model, lambda: learner.fit(2, 0.01))
    assert ("0.0.weight" in names) is not strict and "1.weight" in names


class Counts(nn.Module):
    "A layer with all its parameters inside another one, which counts its calls."
    def __init__(self, always):
        super().__init__()
        self.inner, self.always = nn.Linear(4, 8), always
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        if self.training or self.always:
            self.calls += 1
        return self.inner(x)


def test_a_counter_of_a_frozen_layer_is_held_or_its_movement_is_seen():
    model = nn.Sequential(Counts(always=False), nn.Linear(8, 2))
    model(torch.randn(3, 4))
    assert model[0].calls == 1  # the control
    freeze(model, "0")
    model.train()(torch.randn(3, 4))
    assert model[0].calls == 1
    model = nn.Sequential(Counts(always=True), nn.Linear(8, 2))  # no hook can hold this one
    freeze(model, "0")
    with moved(model) as movement:
        model(torch.randn(3, 4))
    with pytest.raises(AssertionError, match="0.calls was to stay equal"):
        movement.check()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_compiled_body_that_cannot_be_held_is_refused_and_left_alone(tmp_path):
    body = torch.jit.script(model_with()[0])
    learner = make_learner(tmp_path, nn.Sequential(body, nn.Linear(8, 3)))
    with pytest.raises(ValueError, match="TorchScript"):
        freeze(learner)
    assert learner.opt is None and all(p.requires_grad for p in learner.model.parameters())
    freeze(learner, batchnorm="train")
    names = changed(learner.model, lambda: learner.fit(1, 0.1))
    assert "1.weight" in names and "0.0.weight" not in names


def test_a_norm_layer_that_the_selection_leaves_out_is_no_problem(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner, r"0\.0")
    assert status(learner).ok and "go on moving (0.1)" in repr(status(learner).notes)
    for parameter in learner.model[0][1].parameters():  # the control: not what was chosen any more
        parameter.requires_grad_(False)
    assert not status(learner).ok


def test_a_refused_block_touches_nothing():
    model = model_with()
    freeze(model, "0")
    model.train()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match="no parameter name"):
        with frozen(model, "head"):
            pass
    assert modes == [module.training for module in model.modules()]


def train_inside_a_block(learner):
    with frozen(learner, "1"):
        learner.fit(1, 0.01)


def load_other_weights(learner):
    make_learner(learner.path, model_with(lambda: nn.LayerNorm(8)), opt_func=ranger).save("other", with_opt=False)
    learner.load("other", with_opt=False)


@pytest.mark.parametrize("renew", [train_inside_a_block, load_other_weights])
def test_lookahead_takes_frozen_weights_as_they_are_now(tmp_path, renew):
    learner = make_learner(tmp_path, model_with(lambda: nn.LayerNorm(8)), opt_func=ranger)
    learner.fit(1, 0.01)
    freeze(learner)
    assert "0.0.weight" in changed(learner.model, lambda: renew(learner))  # the control
    assert changed(learner.model, lambda: learner.fit(2, 0.01)) == HEAD


def test_status_finds_copies_that_lookahead_goes_back_to(tmp_path):
    learner = make_learner(tmp_path, model_with(lambda: nn.LayerNorm(8)), opt_func=ranger)
    learner.fit(1, 0.01)
    learner.model[0].requires_grad_(False)  # by hand: nobody tells the optimizer
    for parameter in learner.model[0].parameters():
        parameter.grad = None
    assert "older copies" in repr(status(learner).problems)
    assert "0.0.weight" in changed(learner.model, lambda: learner.fit(2, 0.01))
    freeze(learner)
    assert status(learner).ok  # the control
    assert changed(learner.model, lambda: learner.fit(2, 0.01)) == HEAD


def test_a_gradient_that_comes_in_a_block_does_not_move_what_was_frozen_before(tmp_path):
    learner = make_learner(tmp_path)
    freeze(learner)
    with frozen(learner, "1"):
        learner.unfreeze()
        learner.fit(1, 0.1)
        learner.model[0].requires_grad_(False)  # by hand: the gradients stay
    assert status(learner).ok
    assert changed(learner.model, lambda: learner.fit(1, 0.1)) == HEAD


@pytest.mark.parametrize("forward", [True, False])
def test_a_layer_takes_the_mode_that_it_was_given_last(forward):
    model = model_with()
    model[0][1].eval()
    freeze(model, "0")
    unfreeze(model)
    assert not model[0][1].training  # the control
    freeze(model, "0")
    model.train()
    if forward:
        model(torch.randn(3, 4))
    unfreeze(model)
    assert model[0][1].training


def test_a_block_inside_leaves_the_mode_that_a_held_layer_had():
    model = model_with()
    model[0][1].eval()
    freeze(model, "0")
    with frozen(model, r"0\.0"):
        assert not model[0][1].training
    unfreeze(model)
    assert model.training and not model[0][1].training


def stop_a_fine_tune(learner):
    with pytest.raises(RuntimeError), learner.added_cbs(Callback(after_step=stop)):
        fine_tune(learner, 1)


def stop(callback):
    raise RuntimeError("stopped")


@pytest.mark.parametrize("look", [find_cut, lambda learner: plan(learner, 1, cache=True), stop_a_fine_tune])
def test_who_looks_or_stops_leaves_the_mode_that_a_held_layer_had(tmp_path, look):
    learner = make_learner(tmp_path)
    learner.model[0][1].eval()
    freeze(learner)
    look(learner)
    unfreeze(learner)
    assert learner.model.training and not learner.model[0][1].training


def test_ctrl_c_between_the_freeze_and_the_block(tmp_path, monkeypatch):
    learner = make_learner(tmp_path)
    learner.create_opt()
    before, was = account(learner), []

    def then_ctrl_c(*args, **kwargs):
        freeze(*args, **kwargs)
        was.append(account(learner))
        raise KeyboardInterrupt
    monkeypatch.setattr("ft_tutorial.freezing.freeze", then_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        with frozen(learner):
            pass
    assert was[0] != before == account(learner)  # it had been frozen


@pytest.mark.parametrize("has_optimizer", [True, False])
def test_ctrl_c_twice_in_a_freeze(tmp_path, monkeypatch, has_optimizer):
    "Once when all but fastai's own account is changed, and once more while that is undone."
    learner = make_learner(tmp_path)
    if has_optimizer:
        learner.create_opt()
    before, was = account(learner), []

    def ctrl_c(*_):
        was.append(account(learner))
        raise KeyboardInterrupt

    def release(model, release=_release):
        if len(was) == 1:
            ctrl_c()
        release(model)
    monkeypatch.setattr("ft_tutorial.changing._tell_fastai", ctrl_c)
    monkeypatch.setattr("ft_tutorial.changing._release", release)
    with pytest.raises(KeyboardInterrupt):
        freeze(learner)
    assert len(was) == 2 and was[0] == was[1] != before == account(learner)
    assert bool(learner.opt) == has_optimizer
