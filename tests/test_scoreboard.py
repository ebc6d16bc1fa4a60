"The scoreboard: its judges run our jobs and those by hand for real, and find what the stored board says."
import csv
import sys
from pathlib import Path

import pytest
import torch

root = Path(__file__).parents[1]
sys.path.insert(0, str(root / "bench"))

from rivals import JOBS, LIBRARIES, jobs  # noqa: E402


def stored(name):
    with (root / f"nbs/results/{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    "The trained body, and fewer pictures than the board has: 64."
    from ft_tutorial.materials import kana_dls, pretrain_katakana
    x, y = kana_dls("hiragana", 2, distort=0, batch_size=64).one_batch()
    path = tmp_path_factory.mktemp("scoreboard") / "materials.pt"
    torch.save(dict(body=dict(pretrain_katakana(progress=False)[0].state_dict()),
                    hiragana=(torch.Tensor(x), y.as_subclass(torch.Tensor))), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREBOARD_MATERIALS", str(path))
        yield


def judged(library, way):
    jobs.seed()
    return getattr(jobs, f"judge_{way.rstrip('_23')}")(jobs.ways_of(library)[way])


@pytest.mark.parametrize("library, way", [(library, way) for library in ("ft_tutorial", "PyTorch") for way in
                                          ("still", "still_2", "nothing", "typo", "seen", "undo")])
def test_the_judges_find_what_is_stored(materials, library, way):
    rows = [row for row in stored("scoreboard") if (row["library"], row["job"]) == (library, way)]
    if way not in jobs.ways_of(library):
        assert not rows or rows[0]["verdict"] == "not offered"
        return
    verdict, note = judged(library, way)
    assert [verdict] == [row["verdict"] for row in rows], note


def test_a_body_that_moves_is_counted(materials):
    def by_weight_decay(model, pictures):
        yield model
        with torch.no_grad():
            model.body[0][0].weight[0] *= 0.99
            model.head[2].weight += 1
        yield model
    with pytest.raises(AssertionError, match="did not learn before"):
        jobs.judge_still(by_weight_decay)

    def after_learning(model, pictures):
        with torch.no_grad():
            model.body[0][0].weight += 0.1
        yield from by_weight_decay(model, pictures)
    verdict, note = jobs.judge_still(after_learning)
    assert verdict == "no" and "9 of 54,900 parameters moved" in note and "0 of 12 buffers moved" in note


def test_an_undo_that_forgets_the_optimizer_is_seen(materials):
    def forgets(model, pictures):
        optimizer = torch.optim.AdamW(model.parameters())
        model(pictures.x[:8]).sum().backward()
        optimizer.step()
        yield model, optimizer
        optimizer.state.clear()
        model.body[0][1].eval()
        yield model, optimizer
    verdict, note = jobs.judge_undo(forgets)
    assert verdict == "no" and "averages of the optimizer (42 of 42)" in note and "modes" in note


def test_lines_are_counted_with_helpers_and_without_looks(tmp_path):
    file = tmp_path / "library.py"
    file.write_text('''
"""A library."""
from torch import nn

def helper(model):
    "Not counted."
    model.train()
    return nn.Sequential(
        model)

def other():
    pass

def still(model, pictures):
    import torch
    model = helper(model)
    yield model
    for x, y in pictures:  # a comment
        model(x)
    yield model
''')
    assert jobs.lines_of(file, "still") == 3 + 3  # the loop and two calls; `helper` with its own first line
    assert list(jobs.code_of(file)) == ["shared", "still"] and "def other" in jobs.code_of(file)["shared"]


def test_every_library_has_every_job_and_its_code():
    board, code = stored("scoreboard"), {(row["library"], row["job"]): row["code"] for row in stored("scoreboard_code")}
    for library, file in LIBRARIES.items():
        path = root / "bench/rivals" / f"{file}.py"
        assert {job: text for (name, job), text in code.items() if name == library} == jobs.code_of(path), \
            f"{path.name} was changed after it ran: make scoreboard"
        for job in JOBS:
            rows = [row for row in board if row["library"] == library and row["job"].rstrip("_23") == job]
            assert job == "epoch" or rows, (library, job)
            for row in rows:
                if row["lines"]:
                    assert jobs.lines_of(path, row["job"]) == int(row["lines"])
                    assert (library, row["job"]) in code
        measured = {(row["measure"], row["job"]) for row in stored("scoreboard_times") if row["library"] == library}
        ways = [job for name, job in code if name == library and job.startswith("epoch")]
        assert measured == {(measure, way) for measure in ("seconds", "bytes") for way in ways}
