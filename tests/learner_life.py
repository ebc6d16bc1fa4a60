"""A state machine of hypothesis: a learner, random calls, and after each of them what must be the case by all that was said.

`test_learner_states.py` runs it. `Told` is the model: what the calls so far have said; `check` compares it with the learner.
"""
import copy
import io
import pickle
import tempfile
from collections import Counter
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.callback.schedule import fit_one_cycle, lr_find  # noqa: F401 (methods)
from fastai.callback.schedule import fine_tune as fastai_fine_tune  # noqa: F401 (a method)
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, Adam, OptimWrapper, ranger
from fastai.torch_core import set_seed, trainable_params
from fastcore.basics import noop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_freezing import Items
from torch import nn

from ft_tutorial.finetuning import fine_tune
from ft_tutorial.freezing import freeze, frozen, status, unfreeze
from ft_tutorial.movement import moved

FOLDER = tempfile.TemporaryDirectory()
WIDTH = 5


# --- What the learners are made of. A network: two blocks of a linear layer and a norm layer, then the head.

class Counts(nn.Module):
    "A layer that nobody has heard of, which changes a buffer of its own in training."
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("seen", torch.zeros(WIDTH))

    def forward(self, x):
        if self.training:
            self.seen.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.linear(x) - self.seen


@dataclass
class Layer:
    "A layer of a block that is more than weights; names are those inside the block."
    name: str
    own: tuple = ()  # its parameters
    decided_by: tuple = ()  # the parameters that must all be frozen for its buffers to be held
    buffers: bool = True  # does it change them in training?
    norm: bool = True  # does `status` know it, and does fastai train it in a frozen group?


def spectral_linear():
    return nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))


KINDS = {  # what makes the linear layer and the norm layer of a block, and what is special in it
    "plain": (nn.Linear, nn.Identity, None),
    "tied": (nn.Linear, nn.Identity, None),
    "batch": (nn.Linear, lambda: nn.BatchNorm1d(WIDTH), Layer("1", ("1.weight", "1.bias"), ("1.weight", "1.bias"))),
    "batch without weights": (nn.Linear, lambda: nn.BatchNorm1d(WIDTH, affine=False), Layer("1", (), ("0.bias",))),
    "layer": (nn.Linear, lambda: nn.LayerNorm(WIDTH), Layer("1", ("1.weight", "1.bias"), buffers=False)),
    "spectral": (lambda *_: spectral_linear(), nn.Identity,
                 Layer("0.parametrizations.weight.0", (), ("0.parametrizations.weight.original",))),
    "unheard of": (nn.Linear, Counts, Layer("1", (), ("1.linear.weight", "1.linear.bias"), norm=False)),
}


def make_model(kind):
    linear, norm, _ = KINDS[kind]
    model = nn.Sequential(*(nn.Sequential(linear(WIDTH, WIDTH), norm(), nn.Tanh()) for _ in range(2)), nn.Linear(WIDTH, 3))
    if kind == "tied":
        model[1][0].weight = model[0][0].weight
    return model


def layers_of(kind):
    layer = KINDS[kind][2]
    return [Layer(f"{block}.{layer.name}", *(tuple(f"{block}.{name}" for name in names)
                                             for names in (layer.own, layer.decided_by)), layer.buffers, layer.norm)
            for block in "01" if layer]


def split(model, borders):
    "The parameters of the children between each two borders; a shared one goes with the first."
    seen, groups = set(), []
    for start, end in zip(borders, borders[1:]):
        groups.append([p for p in model[start:end].parameters() if p not in seen])
        seen |= set(groups[-1])
    return groups


SPLITTERS = {"one": trainable_params, "two": partial(split, borders=(0, 2, 3)), "three": partial(split, borders=(0, 1, 2, 3))}
OPTIMIZERS = {"Adam": Adam, "SGD": partial(SGD, mom=0.9, wd=0.01), "ranger": partial(ranger, k=3),
              "AdamW of PyTorch": partial(OptimWrapper, opt=torch.optim.AdamW)}
SELECTORS = {  # how to say it, and which names (or the groups before which index) are meant
    "-1": (lambda model: -1, -1),
    "1": (lambda model: 1, 1),
    "7": (lambda model: 7, 7),
    "body": (lambda model: r"[01]\.", lambda name: name[0] in "01"),
    "head": (lambda model: "2", lambda name: name[0] == "2"),
    "biases": (lambda model: ".*bias", lambda name: "bias" in name),
    "linear": (lambda model: r"0\.0", lambda name: name.startswith("0.0")),
    "module": (lambda model: model[0], lambda name: name[0] == "0"),
    "list": (lambda model: [model[1], r"0\.0\."], lambda name: name[0] == "1" or name.startswith("0.0.")),
    "function": (lambda model: lambda name, p: "weight" in name, lambda name: "weight" in name),
    "all": (lambda model: ".*", lambda name: True),
    "nothing": (lambda model: "head", lambda name: False),
}
EVENTS = ["before_fit", "before_epoch", "before_train", "before_batch", "after_pred", "after_loss", "before_backward",
          "after_backward", "before_step", "after_step", "after_batch", "after_train", "before_validate", "after_validate",
          "after_epoch", "after_fit"]


class Oops(RuntimeError):
    "Thrown on purpose."


ERRORS = {"Oops": Oops, "Ctrl-C": KeyboardInterrupt, "cancel fit": CancelFitException, "cancel batch": CancelBatchException}
# None, or: at which event, at its how-manieth call, before or after other callbacks, what.
THROWS = [None] * 20 + [(event, call, order, error) for event in EVENTS for call in (1, 2, 4) for order in (-100, 100)
                        for error in ("Oops", "Ctrl-C")]
THROWS += [(event, call, 0, "cancel batch") for event in ("before_batch", "after_pred", "after_loss") for call in (1, 2)]
THROWS += [("after_batch", call, 0, "cancel fit") for call in (1, 2, 3)]


class Log(Callback):
    "Counts what has happened before anyone throws."
    order = -1000

    def __init__(self):
        self.fits = self.steps = self.forwards = 0

    def before_fit(self): self.fits += 1
    def after_pred(self): self.forwards += self.training
    def after_step(self): self.steps += 1


def throwing(event, call, order, error):
    calls = count(1)

    def throw(callback):
        if next(calls) == call:
            raise ERRORS[error]("thrown on purpose")

    callback = Callback(**{event: throw})
    callback.order = order
    return callback


# --- What must be the case.

@dataclass
class Told:
    "What the calls so far have said."
    frozen: set = field(default_factory=set)  # names of parameters that do not require gradients
    kept: set = field(default_factory=set)  # those of them that `freeze` promised to keep
    asked: tuple = (frozenset(), "frozen")  # what `freeze` was asked for, and its `batchnorm`
    noted: frozenset | None = None  # what was frozen when it was asked; `None`: it was not
    hooked: set = field(default_factory=set)  # names of layers that are held as long as they are frozen
    index: int = 0  # `frozen_idx` of the optimizer
    extended: bool = False  # does the splitter of fastai's default find frozen parameters, too?


def bits(tensor):
    "A copy that is equal only to the same bits, NaN or not."
    return tensor.detach().clone().view(torch.int32 if tensor.dtype == torch.float32 else tensor.dtype)


def everything(model):
    return {name: bits(tensor) for name, tensor in [*model.named_parameters(remove_duplicate=False),
                                                    *model.named_buffers(remove_duplicate=False)]}


def differing(one, other):
    return {name for name in one if not one[name].equal(other[name])}


HOOKS = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
         "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"]


def hooks_of(model):
    found = Counter((name, type(hook).__name__) for name, module in model.named_modules() for kind in HOOKS
                    for hook in getattr(module, kind).values())
    found += Counter((name, "patched forward") for name, module in model.named_modules() if "forward" in vars(module))
    return found + Counter((name, "hook of a tensor") for name, p in model.named_parameters()
                           if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))


def belongings(learner):
    "What a learner has besides numbers: callbacks, attributes, the classes of its loaders."
    return (sorted(type(callback).__name__ for callback in learner.cbs), sorted(set(vars(learner)) - VOLATILE),
            [type(dl).__name__ for dl in learner.dls.loaders])


VOLATILE = {"dl", "xb", "yb", "pred", "loss", "loss_grad", "iter", "n_iter", "epoch", "n_epoch", "train_iter", "pct_train",
            "smooth_loss", "final_record", "lock"}  # what fastai's loop leaves


def account(learner):
    "All that a refused call must leave as it was."
    model = learner.model
    return [hooks_of(model), belongings(learner), [m.training for m in model.modules()], id(learner.opt), learner.splitter,
            learner.opt.frozen_idx if learner.opt else None, [p.requires_grad for p in model.parameters()],
            [id(p.grad) for p in model.parameters()], torch.get_rng_state().tolist(),
            {name: tensor.tolist() for name, tensor in everything(model).items()}]


STEPPED = {}  # each step's choices and condition, for the test of memory


def step(when=lambda life: True, **choices):
    "A rule whose arguments come from short lists."
    def decorate(method):
        STEPPED[method.__name__] = choices, when
        drawn = rule(**{name: st.sampled_from(values) for name, values in choices.items()})
        return precondition(when)(drawn(method))
    return decorate


def alone(life):
    return not life.blocks


def can_train(life):
    return life.learner is not None and any(p.requires_grad for p in life.learner.model.parameters())


FITS = {
    "fit": lambda learner: learner.fit(1, 0.01),
    "two epochs": lambda learner: learner.fit(2, slice(1e-3, 1e-2)),
    "fit_one_cycle": lambda learner: learner.fit_one_cycle(1, 0.01),
    "reset_opt": lambda learner: learner.fit(1, 0.01, reset_opt=True),
    "lr_find": lambda learner: learner.lr_find(1e-4, 1e-2, num_it=6, stop_div=False, show_plot=False, suggest_funcs=None),
}


class Life(RuleBasedStateMachine):
    "A learner, what was said to it, and what must therefore be the case."
    lived = Counter()

    def __init__(self):
        super().__init__()
        self.learner, self.told, self.groups, self.own_eval, self.bits = None, Told(), None, set(), {}
        self.blocks, self.file = [], None

    def teardown(self):
        if self.learner is not None:
            Life.lived["lives"] += 1

    # --- What must be the case, worked out from what was said.

    def new_learner(self):
        dls = DataLoaders.from_dsets(self.items, Items(self.items[:8]), bs=8, num_workers=0, device="cpu", shuffle=(True, False))
        return self.learner_of(make_model(self.kind), dls)

    def learner_of(self, model, dls):
        learner = Learner(dls, model, CrossEntropyLossFlat(), path=Path(FOLDER.name), splitter=SPLITTERS[self.splitter],
                          opt_func=OPTIMIZERS[self.optimizer], train_bn=self.train_bn)
        learner.remove_cb(learner.progress)
        learner.logger = noop
        return learner

    def names(self):
        return [name for name, _ in self.learner.model.named_parameters(remove_duplicate=False)]

    def new_groups(self):
        "What the splitter gives now, in names."
        if self.splitter == "one":
            hidden = self.told.frozen - (self.told.asked[0] if self.told.extended else set())
            return [set(self.names()) - hidden]
        parts = {"two": ["01", "2"], "three": ["0", "1", "2"]}[self.splitter]
        groups = [{name for name in self.names() if name[0] in part} for part in parts]
        if self.kind == "tied" and self.splitter == "three":
            groups[0].add("1.0.weight"), groups[1].remove("1.0.weight")
        return groups

    def groups_now(self):
        return self.groups or self.new_groups()

    def outside(self):
        return set(self.names()).difference(*self.groups_now())

    def norm_parameters(self):
        return {name for layer in self.layers if layer.norm for name in layer.own}

    def exempt(self, batchnorm):
        return self.norm_parameters() if batchnorm == "train" and self.train_bn else set()

    def holding(self):
        return {layer.name for layer in self.layers if layer.name in self.told.hooked and self.told.frozen >= {*layer.decided_by}}

    def in_force(self):
        "Is all as `freeze` or `unfreeze` left it?"
        return self.told.noted is not None and self.told.noted == self.told.frozen == self.told.kept

    def meant(self, what):
        "The names that a selector means; `None` where it must be refused."
        meaning, groups = SELECTORS[what][1], self.groups_now()
        if not isinstance(meaning, int):
            return {name for name in self.names() if meaning(name)} or None
        first = meaning if meaning >= 0 else len(groups) + meaning
        return set().union(*groups[:first]) if 0 < first < len(groups) else None

    def refused(self, names, batchnorm):
        still = names - self.exempt(batchnorm)
        halves = self.kind == "tied" and len({"0.0.weight", "1.0.weight"} & names) == 1
        return halves or bool(self.outside() - names) or still == set(self.names()) or bool(names and not still)

    def make_opt(self, anew=False):
        if anew or self.groups is None:
            self.groups, self.told = self.new_groups(), replace(self.told, index=0)

    def ours(self, names, batchnorm):
        "Exactly `names` are frozen by us."
        self.make_opt()
        still = names - self.exempt(batchnorm)
        whole = [group <= names for group in self.groups]
        hooked = {layer.name for layer in self.layers if batchnorm == "frozen" and layer.buffers and still >= {*layer.decided_by}}
        self.told = Told(set(still), set(still), (frozenset(names), batchnorm), frozenset(still) if names else None, hooked,
                         [*whole, False].index(False), self.splitter == "one" and bool(names))

    def theirs(self, n):
        "fastai's `freeze_to(n)` was called last."
        self.make_opt()
        trains, before = set().union(*self.groups[n:]), set().union(*self.groups[:n])
        learning = self.norm_parameters() & before if self.train_bn else set()
        self.told = Told((self.told.frozen - trains | before) - learning,
                         index=n if n >= 0 else len(self.groups) + n)

    # --- Calls.

    @initialize(kind=st.sampled_from(sorted(KINDS)), splitter=st.sampled_from(sorted(SPLITTERS)),
                optimizer=st.sampled_from(sorted(OPTIMIZERS)), train_bn=st.booleans())
    def birth(self, kind, splitter, optimizer, train_bn):
        set_seed(0)
        self.kind, self.splitter, self.optimizer, self.train_bn = kind, splitter, optimizer, train_bn
        self.layers = layers_of(kind)
        x = torch.randn(16, WIDTH)
        self.items = Items(zip(x, (x[:, 0] > 0).long()))
        self.learner = self.new_learner()
        self.born = hooks_of(self.learner.model), belongings(self.learner)

    def expect(self, refused, call):
        "Call, and see that it is refused exactly when it must be, and then leaves all as it was."
        before = account(self.learner) if refused else None
        try:
            call()
        except ValueError as error:
            assert refused, error
            assert before == account(self.learner)
            Life.lived["refused"] += 1
            return False
        assert not refused
        return True

    @step(what=sorted(SELECTORS), batchnorm=["frozen", "frozen", "train"])
    def freeze(self, what, batchnorm):
        names = self.meant(what)
        refused = names is None or self.refused(names, batchnorm)
        if self.expect(refused, lambda: freeze(self.learner, SELECTORS[what][0](self.learner.model), batchnorm=batchnorm)):
            self.ours(names, batchnorm)

    @step(what=[None, None, *sorted(SELECTORS)])
    def unfreeze(self, what):
        names = set() if what is None else self.meant(what)
        still = set() if what is None else self.told.frozen - (names or set())
        batchnorm = self.told.asked[1] if self.told.noted is not None else "frozen"
        refused = names is None or self.refused(still, batchnorm)
        selector = None if what is None else SELECTORS[what][0](self.learner.model)
        if self.expect(refused, lambda: unfreeze(self.learner, selector)):
            self.ours(still, batchnorm)

    @step(lambda life: len(life.blocks) < 3, what=sorted(SELECTORS), batchnorm=["frozen", "frozen", "train"])
    def enter(self, what, batchnorm):
        names, before = self.meant(what), self.told
        refused = names is None or self.refused(names, batchnorm)
        block = frozen(self.learner, SELECTORS[what][0](self.learner.model), batchnorm=batchnorm)
        if self.expect(refused, block.__enter__):
            self.ours(names, batchnorm)
            self.blocks.append((block, before))

    @step(lambda life: life.blocks, error=[None, None, "Oops", "Ctrl-C"])
    def leave(self, error):
        block, self.told = self.blocks.pop()
        if error is None:
            block.__exit__(None, None, None)
            return
        thrown = ERRORS[error]("thrown on purpose")
        with pytest.raises(type(thrown)):
            if not block.__exit__(type(thrown), thrown, None):
                raise thrown

    def train(self, call, throw):
        "Call something that trains; what it threw, what happened, and what moved."
        log, error, before = Log(), None, everything(self.learner.model)
        with moved(self.learner) as movement:
            try:
                with redirect_stdout(io.StringIO()), self.learner.added_cbs([log, *([throwing(*throw)] if throw else [])]):
                    call()
            except (Oops, KeyboardInterrupt) as thrown:
                error = thrown
        now = everything(self.learner.model)
        names = differing(before, now)
        assert all((change.state == "moved") == (name in names) for name, change in movement.changes.items())
        modes = [module.training for name, module in self.learner.model.named_modules() if name not in self.told.hooked]
        if len(set(modes)) == 1:
            self.own_eval = set()
        Life.lived["thrown" if error else "trained"] += 1
        return error, log, names, movement

    @step(can_train, how=sorted(FITS), throw=THROWS)
    def fit(self, how, throw):
        said, told = status(self.learner), self.told
        in_force, holding, outside = self.in_force(), self.holding(), self.outside()
        error, log, names, movement = self.train(lambda: FITS[how](self.learner), throw)
        self.make_opt(anew=how == "reset_opt")
        if how == "lr_find" and (error is None or throw[0] == "after_fit" and throw[2] > 0):
            if told.noted is not None and told.noted == told.frozen:
                self.ours(*told.asked)  # it loads the file that it saved
            assert not names
            return
        left = {name for problem in said.problems if "left over" in problem.what or "older copies" in problem.what
                for name in problem.tensors}
        assert names & told.frozen <= left
        assert not in_force or not names & told.kept
        moving = {layer.name for layer in self.layers if any(n in names - left for n in layer.own) or
                  any(n.startswith(layer.name + ".") for n in names - set(self.names()))}
        assert not moving & holding
        if in_force and told.frozen:
            self.judge_check(movement, told, moving)
        elif names & told.frozen:
            with pytest.raises(AssertionError):
                movement.check()
        if log.steps and how != "lr_find":
            self.judge_layers(said, told, moving, how == "reset_opt" or outside)
            head = {"2.weight"} - told.frozen - outside
            assert head <= names

    @step(can_train)
    def go_on(self):
        "Most often nothing is thrown."
        Life.fit(self, "two epochs", None)

    def judge_check(self, movement, told, moving):
        'With "train", fastai goes on updating a layer that is no norm layer, too; `check` is what finds it.'
        free = {layer.name for layer in self.layers if not layer.norm and told.frozen >= {*layer.decided_by}}
        with pytest.raises(AssertionError) if moving & free else nullcontext():
            movement.check()

    def judge_layers(self, said, told, moving, other_optimizer):
        "What `status` had said of norm layers, against what they did."
        known = {layer.name for layer in self.layers if layer.norm}
        named = {name for problem in said.problems + said.notes if "norm layers" in problem.what for name in problem.tensors}
        arrives = self.kind == "spectral"  # a power iteration of a frozen weight may have come to its end
        assert arrives or named <= moving
        if not other_optimizer:
            count = sum(int(row["norm_layers"].split()[0]) for row in said.rows if row["norm_layers"] != "none")
            assert count == len(moving & known) or arrives and count > len(moving & known)
        claimed = set().union(*self.groups_now()[:max(told.index, 0)])
        if not claimed - self.norm_parameters() <= told.frozen:
            assert any("learner.summary()" in note.what for note in said.notes)
            claimed = set()
        for layer in self.layers:
            if layer.norm and layer.name in moving and claimed >= {*(layer.own or layer.decided_by)}:
                assert layer.name in named

    @step(can_train, strategy=["head_then_all", "head_then_all", "all_at_once", "head_only", "gradual"], epochs=[0, 1],
          batchnorm=["frozen", "frozen", "train"], cache=[False, False, True], checkpoint=[False, False, True], throw=THROWS)
    def tune(self, strategy, epochs, batchnorm, cache, checkpoint, throw):
        groups = self.groups_now()
        norms = self.norm_parameters() & set().union(*groups[:-1]) if batchnorm == "frozen" else set()
        frozen_first = strategy == "head_only" or (strategy != "all_at_once" and epochs)
        phases = [set().union(*groups[:-1])] * bool(frozen_first) + [set()] * (strategy != "head_only")
        refused = any(self.refused(phase | norms, batchnorm) for phase in phases) or bool(frozen_first and len(groups) == 1)
        path = Path(FOLDER.name) / "checkpoint" if checkpoint else None
        modes = [module.training for module in self.learner.model.modules()]
        call = partial(fine_tune, self.learner, 1, 0.01, epochs, strategy=strategy, batchnorm=batchnorm, cache=cache,
                       checkpoint=path)
        before = account(self.learner) if refused or cache else None
        try:
            error, log, names, _ = self.train(call, throw)
        except ValueError as refusal:  # what `cache` refuses is tested elsewhere
            assert refused or cache, refusal
            assert before == account(self.learner)
            Life.lived["refused"] += 1
            return
        assert not refused
        self.make_opt()
        self.bits = {}  # what was frozen before the call may have been trained
        assert not names & norms
        if frozen_first and log.fits <= 1:
            assert not names & (phases[0] - self.exempt(batchnorm))
        if error:
            assert modes == [module.training for module in self.learner.model.modules()]
            self.check()
            if checkpoint:
                self.train(call, None)  # goes on
        if not error or checkpoint:
            self.ours(self.outside(), "frozen")
        if checkpoint:
            path.unlink(missing_ok=True)

    @step(call=["freeze", "unfreeze", "freeze_to 1", "freeze_to -2", "freeze_to -5"])
    def fastai_freezes(self, call):
        name, _, index = call.partition(" ")
        n = {"freeze": -1, "unfreeze": 0}.get(name, int(index or 0))
        if n < len(self.groups_now()):
            getattr(self.learner, name)(*[n] * bool(index))
            self.theirs(n)

    @step(can_train, throw=THROWS)
    def fastai_tunes(self, throw):
        error, log, _, _ = self.train(lambda: self.learner.fine_tune(1, 0.01), throw)
        self.theirs(-1)
        if not error or log.fits > 1:
            self.theirs(0)

    @step(how=["all train", "first block frozen", "new optimizer"])
    def by_hand(self, how):
        "What people do themselves."
        if how == "new optimizer":
            if can_train(self):
                self.learner.create_opt()
                self.make_opt(anew=True)
            return
        trains = how == "all train"
        (self.learner.model if trains else self.learner.model[0]).requires_grad_(trains)
        first = {name for name in self.names() if name[0] == "0" or self.kind == "tied" and name == "1.0.weight"}
        self.told = replace(self.told, frozen=set() if trains else self.told.frozen | first,
                            kept=set() if trains else self.told.kept)

    @step(how=["train", "eval", "a layer in eval", "forward", "validate", "get_preds"])
    def use(self, how):
        "Modes, and all that does not learn."
        model, before = self.learner.model, everything(self.learner.model)
        self.own_eval = {"1.1"} if how == "a layer in eval" and "1.1" not in self.told.hooked else set()
        if how == "forward":
            model.train()(torch.randn(8, WIDTH))
            return  # statistics may move
        if how in ("validate", "get_preds"):
            getattr(self.learner, how)()
        else:
            model.train(how != "eval")
        if self.own_eval:
            model[1][1].eval()
        assert not differing(before, everything(model)) and model.training == (how in ("train", "a layer in eval"))

    @step(with_opt=[True, False])
    def save(self, with_opt):
        self.learner.save("life", with_opt=with_opt)
        note = self.told.asked if self.told.noted is not None and self.told.noted == self.told.frozen else None
        self.file = note, everything(self.learner.model), with_opt and self.groups

    @step(lambda life: life.file, with_opt=[True, False], fresh=[True, True, False])
    def load(self, with_opt, fresh):
        note, weights, saved_groups = self.file
        if fresh and alone(self):
            self.learner, self.told, self.groups, self.own_eval = self.new_learner(), Told(), None, set()
        with_opt = with_opt and saved_groups == self.groups_now()
        self.make_opt()
        self.bits = {}
        refused = note and self.refused(set(note[0]), note[1])
        try:
            self.learner.load("life", with_opt=with_opt)
            assert not refused
        except ValueError:
            assert refused
        assert not differing(weights, everything(self.learner.model))
        if note and not refused:
            self.ours(set(note[0]), note[1])

    @step(how=["deepcopy", "model", "pickle", "export"], go_on=[True, False])
    def copy(self, how, go_on):
        "Go on with a copy, or see that it is as it must be and drop it."
        told, groups = self.told, self.groups
        if how == "export" and groups != self.new_groups():
            return  # fastai makes another optimizer in the old one's place, and fails
        if how in ("pickle", "export") and self.kind == "spectral":
            return  # PyTorch does not pickle parametrized modules
        if how == "deepcopy":
            self.learner._end_cleanup()  # fastai leaves outputs with their graph, which cannot be copied, after lr_find or
            self.learner.loss_grad = None  # an error
            other = copy.deepcopy(self.learner)
        elif how == "export":
            self.learner.export("learner.pkl")
            self.make_opt(anew=True)
            other = load_learner(Path(FOLDER.name) / "learner.pkl")
            other.dls, groups, told = self.learner.dls, None, replace(told, index=0)
        else:
            made = copy.deepcopy(self.learner.model) if how == "model" else pickle.loads(pickle.dumps(self.learner.model))
            other, groups = self.learner_of(made, self.learner.dls), None
            told = replace(told, index=0, extended=False)
        mine = self.learner, self.told, self.groups, self.own_eval, dict(self.bits)
        self.learner, self.told, self.groups = other, told, groups
        self.check()
        if not (go_on and alone(self)):
            if can_train(self):
                Life.fit(self, "fit", None)
                self.check()
            self.learner, self.told, self.groups, self.own_eval, self.bits = mine

    @step()
    def look(self):
        before = account(self.learner)
        repr(status(self.learner)), status(self.learner)._repr_html_()
        assert before == account(self.learner)

    # --- After each call.

    @invariant()
    def check(self):
        Life.lived["checks"] += 1
        self.check_learning(), self.check_optimizer(), self.check_leftovers(), self.check_modes(), self.check_status()
        self.check_bits()

    def check_learning(self):
        parameters = dict(self.learner.model.named_parameters(remove_duplicate=False))
        assert {name for name, p in parameters.items() if not p.requires_grad} == self.told.frozen
        assert not [name for name in self.told.kept if parameters[name].grad is not None]

    def check_optimizer(self):
        opt, named = self.learner.opt, list(self.learner.model.named_parameters(remove_duplicate=False))
        assert (opt is None) == (self.groups is None)
        if opt is None:
            return
        lists = [list(group) for group in opt.param_lists]
        assert [{name for name, p in named if any(p is q for q in group)} for group in lists] == self.groups
        assert len({id(p) for group in lists for p in group}) == sum(map(len, lists))
        assert opt.frozen_idx == self.told.index
        known = {id(p) for _, p in named}
        assert all(id(p) in known for p in opt.state) and all(id(p) in known for p in getattr(opt, "opt", opt).state)

    def check_leftovers(self):
        hooks, has = self.born
        ours = Counter({(name, "_HoldStill"): 1 for name in self.told.hooked})
        ours += Counter({("", "_HoldAgain"): int(bool(self.told.hooked)), ("", "_Record"): int(self.told.noted is not None)})
        assert hooks_of(self.learner.model) == hooks + ours
        assert belongings(self.learner) == has
        assert (self.learner.splitter is SPLITTERS[self.splitter]) != self.told.extended or self.splitter != "one"

    def check_modes(self):
        model = self.learner.model
        for name, module in model.named_modules():
            own = any(name == other or name.startswith(other + ".") for other in self.own_eval)
            assert module.training == (model.training and not own) or name in self.told.hooked

    def check_status(self):
        said, named = status(self.learner), dict(self.learner.model.named_parameters(remove_duplicate=False))
        groups = self.groups_now() + [self.outside()] * bool(self.outside())
        for row, group in zip(said.rows, groups, strict=True):
            sizes = {id(named[name]): named[name].numel() for name in group}
            trains = {id(named[name]): named[name].numel() for name in group - self.told.frozen}
            assert (row["parameters"], row["trainable"]) == (sum(sizes.values()), sum(trains.values()))
            held = "no" if row["group"] == "none" else "yes" if self.groups else "when made"
            assert row["in_optimizer"] == held
        problems = {key: {name for p in said.problems if key in p.what for name in p.tensors}
                    for key in ("left over", "older copies", "does not hold")}
        left = {name for name in self.told.frozen - self.outside() if named[name].grad is not None}
        slow = zip(getattr(self.learner.opt, "slow_weights", None) or [], self.learner.opt.param_lists if self.groups else [])
        copies = {id(p): copy for group, fast in slow for copy, p in zip(group, fast)}
        older = {name for name in self.told.frozen if not bits(copies.get(id(named[name]), named[name])).equal(bits(named[name]))}
        assert not older & self.told.kept
        assert problems == {"left over": left, "older copies": older, "does not hold": self.outside()}
        assert any("freeze_to" in p.what for p in said.problems) == (self.told.index < 0)
        if (self.in_force() or not self.told.frozen) and not self.outside() and self.told.index >= 0:
            assert said.ok, said.problems

    def check_bits(self):
        "What was frozen when we last looked, and is, has the same bits."
        buffers = {name for name, _ in self.learner.model.named_buffers() for layer in self.holding()
                   if name.startswith(layer + ".")}
        now = {name: value for name, value in everything(self.learner.model).items() if name in self.told.kept | buffers}
        assert not differing({name: value for name, value in self.bits.items() if name in now}, now)
        self.bits = now
