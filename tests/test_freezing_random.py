"Random models, groupings, optimizers and selectors: either the freeze holds, or nothing at all was touched."
import pickle
import re
from functools import partial

import torch
from fastai.torch_core import params, trainable_params
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from test_freezing import OPTIMIZERS, account, changed, make_learner
from torch import nn

from ft_tutorial.freezing import freeze, frozen, status, unfreeze

WIDTH = 4
LAYERS = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "batch": lambda: nn.BatchNorm1d(WIDTH),
    "batch without weights": lambda: nn.BatchNorm1d(WIDTH, affine=False),
    "layer": lambda: nn.LayerNorm(WIDTH),
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "relu": nn.ReLU,
    "dropout": partial(nn.Dropout, 0.2),
}


@st.composite
def models(draw, depth=0):
    "A sequence of layers and of sequences; sometimes two linear layers share their weight."
    one = st.sampled_from(sorted(LAYERS)).map(lambda name: LAYERS[name]())
    parts = draw(st.lists(one if depth == 2 else one | models(depth + 1), min_size=1, max_size=3))
    if depth:
        return nn.Sequential(*parts)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), *parts, nn.Linear(WIDTH, 3))
    linear = [m for m in model.modules() if type(m) is nn.Linear and m.out_features == WIDTH]
    linear = [m for m in linear if "weight" in m._parameters]
    if len(linear) > 1 and draw(st.booleans()):
        linear[-1].weight = linear[0].weight
    return model


@st.composite
def splitters(draw, model, may_overlap):
    "Groups of consecutive children, one group, or groups that leave the first child out."
    kind = draw(st.sampled_from(["groups", "groups", "one", "left out"]))
    if kind == "one":
        return trainable_params
    start = int(kind == "left out")
    cut = draw(st.integers(start + 1, len(model) - 1)) if len(model) > start + 1 else start + 1
    overlap = may_overlap and draw(st.booleans())

    def split(m):
        first, second = [list(dict.fromkeys(p for c in part for p in params(c))) for part in (m[start:cut], m[cut:])]
        second = second if overlap else [p for p in second if not any(p is q for q in first)]
        return [group for group in (first, second) if group]

    return split


def fails(name, parameter):
    raise RuntimeError("a mistake of the user's")


@st.composite
def selectors(draw, model, depth=0):
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = [m for _, m in model.named_modules()]
    kinds = [
        st.integers(-4, 4),
        st.just(-1),
        st.sampled_from(modules[1:]),
        st.sampled_from(names).map(re.escape),
        st.sampled_from(names).map(lambda name: re.escape(name.split(".")[0]) + r"\."),
        st.sampled_from(["bias", ".*bias", ".*", "(", "head", ""]),
        st.sampled_from(modules),
        st.sampled_from([nn.ReLU(), None, 3.5, True, nn.Linear, {"0"}, [], fails]),
        st.sampled_from(names).map(lambda wanted: lambda name, parameter: name < wanted),
        st.just(lambda name, parameter: parameter.numel()),
    ]
    if depth < 2:
        kinds.append(st.lists(selectors(model, depth + 1), max_size=3))
    return draw(st.one_of(kinds))


def cloned(tensor):
    return None if tensor is None else tensor.detach().clone()


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    return one == other


def tensors(learner):
    parameters = list(learner.model.parameters())
    return [torch.get_rng_state(), *(cloned(v) for v in learner.model.state_dict().values()),
            *(cloned(p.grad) for p in parameters), [id(p) for p in parameters],
            id(learner.opt), pickle.dumps(learner.opt.state_dict()) if learner.opt else None]


def in_with(learner, what, batchnorm):
    with frozen(learner, what, batchnorm=batchnorm) as now:
        return now


CALLS = {"freeze": lambda learner, what, batchnorm: freeze(learner, what, batchnorm=batchnorm),
         "unfreeze": lambda learner, what, batchnorm: unfreeze(learner, what),
         "frozen": in_with}


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                                 HealthCheck.filter_too_much, HealthCheck.data_too_large])
@given(data=st.data(), optimizer=st.sampled_from(sorted(OPTIMIZERS)), fits=st.sampled_from(["none", "one", "M2"]),
       call=st.sampled_from(sorted(CALLS)), batchnorm=st.sampled_from(["frozen"] * 6 + ["train"] * 3 + ["still", None]))
def test_either_it_holds_or_nothing_was_touched(tmp_path, data, optimizer, fits, call, batchnorm):
    model = data.draw(models())
    learner = make_learner(tmp_path, model, data.draw(splitters(model, optimizer != "AdamW of PyTorch")),
                           opt_func=OPTIMIZERS[optimizer])
    fresh = account(learner)
    if fits != "none":
        learner.fit(1, 0.01)
        if fits == "M2":
            learner.freeze()
    what = data.draw(selectors(model))
    before = account(learner), tensors(learner)
    try:
        CALLS[call](learner, what, batchnorm)
    except (ValueError, TypeError, RuntimeError) as error:
        event(f"{call} refused")
        assert len(str(error)) > 20
        assert before[0] == account(learner)
        assert all(same(a, b) for a, b in zip(before[1], tensors(learner)))
        return
    event(f"{call} done")
    if call == "frozen":
        assert before[0] == account(learner)
        return
    still = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    if call == "freeze":
        assert still
    assert 0 < len(list(model.parameters())) - len({p for p in model.parameters() if not p.requires_grad})
    held = {f"{n}.{b}" for n, m in model.named_modules() for b in m._buffers
            if any(type(h).__name__ == "_HoldStill" for h in m._forward_pre_hooks.values())}
    moved = set(changed(model, lambda: learner.fit(1, 0.01)))
    assert moved and not moved & (still | held)
    assert not [p for p in status(learner).problems if "left over" in p.what]
    try:
        unfreeze(learner)
    except ValueError as error:
        assert "the optimizer does not hold" in str(error)
        return
    now = account(learner)
    assert now[0] == [True] * len(now[0]) and now[2:] == fresh[2:]
