"""What a user's program looks like: the whole front door, with the types that an editor shows.

`test_types.py` checks this file with pyright, and runs it.
"""
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fastai.learner import Learner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from typing_extensions import assert_type

from ft_tutorial import (CASES, GLOSSARY, SCHOOLS, SOURCES, Description, Movement, Phase, Plan, Run, Status, compare,
                         describe_run, fine_tune, freeze, frozen, look_up, moved, name_run, plan, split_by, status,
                         unfreeze, what_if)
from ft_tutorial.materials import kana_dls, pretrain_katakana, small_cnn


def words() -> None:
    run = Run(task_same=False, moved="none", added="head")
    verdicts = name_run(run)
    assert_type(verdicts["plain"].fine_tuning, bool | None)
    assert_type(verdicts["plain"].why, str)
    assert_type(look_up("転移学習").en, str)
    assert_type(SCHOOLS["plain"].name, str)
    assert_type(SOURCES[next(iter(SOURCES))].quote, str)
    assert_type(CASES[next(iter(CASES))].run, Run)
    assert_type(GLOSSARY[next(iter(GLOSSARY))].meaning_ja, str)
    what_if(run)


def learner() -> Learner:
    model = pretrain_katakana(epochs=1, progress=False)
    model[1] = small_cnn(46, seed=1)[1]
    return Learner(kana_dls("hiragana", 2, per_class=2), model, splitter=split_by("0", "1"))


def freezing(learner: Learner) -> None:
    model = small_cnn()
    assert_type(freeze(learner), Status)
    for what in (-1, r"0\.", ["0", r"1\.2"], ("0", "1.2.bias")):
        freeze(learner, what, batchnorm="train")
    freeze(model, lambda name, parameter: name.startswith("0"))
    assert_type(unfreeze(learner, r"0\.3"), Status)
    with frozen(learner, 1) as now:
        assert_type(now, Status)
    assert_type(status(learner).ok, bool)
    print([problem.cure for problem in status(model).problems], status(learner).rows.to_frame())


def training(learner: Learner, folder: Path) -> None:
    made = plan(learner, 1, strategy="gradual")
    assert_type(made, Plan)
    assert_type(made.epochs, int)
    assert_type(made.plot(), Figure)
    print(made.rates.shape, made.momenta.shape, made.table.to_frame())
    made.save(folder / "plan.json")
    assert_type(Plan.load(folder / "plan.json"), Plan)
    assert Plan.from_json(made.to_json()) == made
    own = [Phase(1, 1e-3, -1), Phase(1, slice(1e-5, 1e-3))]
    with moved(learner) as movement:
        fine_tune(learner, own, checkpoint=folder / "run.pt")
    fine_tune(learner, 1, base_lr=1e-3, strategy="head_only", cache=True)
    seeing(movement, learner)


def seeing(movement: Movement, learner: Learner) -> None:
    assert_type(movement["0.0.0.weight"].relative, float | None)
    assert_type(movement.summary, str)
    assert_type(movement.plot(), Axes)
    print(movement.table, movement.by_layer, movement.by_group.to_frame())
    print(bool(movement.same_function(torch.zeros(2, 1, 32, 32))))
    since = compare(small_cnn().state_dict(), learner)
    print(since.summary)
    described = describe_run(movement, source="all", task_same=False, domain_same=False, data="new",
                             objective_same=True, labelled=True, small_step=False, after_frozen=False, same_run=False)
    assert_type(described, Description)
    assert_type(described.sentence(lang="ja"), str)
    assert_type(described.plot(), Figure)


if __name__ == "__main__":
    words()
    with TemporaryDirectory() as folder:
        mine = learner()
        freezing(mine)
        training(mine, Path(folder))
