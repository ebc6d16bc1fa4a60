"""Random lives of a learner: whatever is called, in whatever order, what is frozen stays and `status` tells the truth.

A failure prints its calls, to be pasted below `from learner_life import *`, and the seed: `SEED=... pytest -s
tests/test_learner_states.py` lives the same lives again. `make soak` lives 5,000 of a new seed.
"""
import gc
import os
import random
import types
import warnings
import weakref
from contextlib import contextmanager, nullcontext

import pytest
import torch
from fastai.learner import Learner
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ft_tutorial import changing, finetuning, states
from ft_tutorial.freezing import freeze

pytest.register_assert_rewrite("learner_life")
import learner_life  # noqa: E402 (it is to explain its assertions)
from learner_life import STEPPED, Life  # noqa: E402

LIVES = int(os.environ.get("SOAK", 300))
SEED = int(os.environ.get("SEED", random.randrange(2**32) if "SOAK" in os.environ else 0))
STEPS = 12  # calls in a life, the birth among them


# Hypothesis' own generator, under another name: under its own, five lives of six are the one before with a step replaced.
BACKEND = "all anew"
try:
    from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS
    AVAILABLE_PROVIDERS[BACKEND] = "hypothesis.internal.conjecture.providers.HypothesisProvider"
except ImportError:  # it is internal
    BACKEND = "hypothesis"


def live(lives, machine=Life, **kwargs):
    machine = seed(SEED)(machine)
    options = dict(max_examples=lives, stateful_step_count=STEPS, deadline=None, database=None, print_blob=True,
                   report_multiple_bugs=False, backend=BACKEND,
                   phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(machine, settings=settings(**{**options, **kwargs}))


def test_lives():
    print(f"\nSEED={SEED} SOAK={LIVES}", flush=True)
    Life.lived.clear()
    try:
        live(LIVES)
    finally:
        print(dict(Life.lived))
    assert Life.lived["lives"] >= LIVES
    assert min(Life.lived[key] for key in ("thrown", "trained", "refused")) >= LIVES / 4


# --- Can it fail? Each of these is a mistake that someone could make.

def keep_gradients(monkeypatch):
    def apply(model, names, batchnorm, exempt):
        gradients = {p: p.grad for p in model.parameters()}
        usual(model, names, batchnorm, exempt)
        for parameter, grad in gradients.items():
            parameter.grad = grad

    usual = changing._apply
    monkeypatch.setattr(changing, "_apply", apply)


def hold_nothing(monkeypatch):
    monkeypatch.setattr(states._HoldStill, "__call__", lambda self, module, inputs: None)


def leave_a_hook(monkeypatch):
    usual = states._drop
    monkeypatch.setattr(states, "_drop", lambda hooks, kind: kind is states._HoldAgain or usual(hooks, kind))


def forget_errors(monkeypatch):
    @contextmanager
    def without_finally(learner, what, *, batchnorm):
        before = changing._remember(learner)
        yield freeze(learner, what, batchnorm=batchnorm)
        changing._restore(learner, before)

    monkeypatch.setattr(learner_life, "frozen", without_finally)


def leave_a_phase(monkeypatch):
    monkeypatch.setattr(finetuning, "_as_before", lambda learner: nullcontext())


def forget_files(monkeypatch):
    monkeypatch.setattr(Learner, "load", changing._fastai_load)


def see_no_gradients(monkeypatch):
    def problems(learner, layers):
        found, notes = usual(learner, layers)
        return [problem for problem in found if "left over" not in problem.what], notes

    usual = states._optimizer_problems
    monkeypatch.setattr(states, "_optimizer_problems", problems)


@pytest.mark.parametrize("mistake", [keep_gradients, hold_nothing, leave_a_hook, forget_errors, leave_a_phase, forget_files,
                                     see_no_gradients])
def test_a_mistake_is_found(monkeypatch, mistake):
    mistake(monkeypatch)
    Life.lived.clear()
    with pytest.raises(AssertionError):
        live(250, phases=[Phase.generate])
    print(f"{mistake.__name__}: found in life {Life.lived['lives']}")


# --- Memory.

def at_rest(life):
    "How many tensors, and how many objects, there are when all is as after birth and a fit."
    while life.blocks:
        life.leave(None)
    life.by_hand("all train"), life.by_hand("new optimizer"), life.unfreeze(None), life.fit("fit", None), life.check()
    gc.collect()
    lazy = weakref.ref, types.BuiltinFunctionType  # of locks that are gone; filelock clears them away in batches
    kinds = [kind for found in gc.get_objects() if (kind := type(found)) not in lazy]
    return sum(issubclass(kind, torch.Tensor) for kind in kinds), len(kinds)


def grown_in_200_steps(optimizer):
    chance, life = random.Random(SEED), Life()
    life.birth(kind="batch", splitter="two", optimizer=optimizer, train_bn=True)
    life.save(True)
    for steps in (100, 200):  # the first to warm up
        before = at_rest(life)
        for _ in range(steps):
            name = chance.choice([name for name, (_, when) in STEPPED.items() if when(life)])
            getattr(life, name)(**{key: chance.choice(values) for key, values in STEPPED[name][0].items()})
            life.check()
    return [after - count for after, count in zip(at_rest(life), before)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["Adam", "ranger"])
def test_memory_does_not_grow(optimizer):
    tensors, objects = grown_in_200_steps(optimizer)
    print(f"{tensors} tensors, {objects} objects more")
    assert tensors <= 0 and objects < 100


@pytest.mark.filterwarnings("ignore")
def test_growing_memory_is_seen(monkeypatch):
    kept, usual = [], changing._remember
    monkeypatch.setattr(changing, "_remember", lambda learner: kept.append(usual(learner)) or kept[-1])
    tensors, objects = grown_in_200_steps("Adam")
    print(f"{tensors} tensors, {objects} objects more")
    assert tensors > 0 and objects >= 100
