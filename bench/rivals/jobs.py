"""What each job of the scoreboard does, and how its outcome is judged: the same for every library.

    python -m rivals.jobs fastai still materials.pt answer.json

A library has a file with one function for each job. Such a function holds what a user would write. Where it
says `yield`, the scoreboard looks at the model; that is the only trace of it. What a library does not offer
stands in its `NOT_OFFERED`, with the page of its documentation that one would look at.
"""
import ast
import contextlib
import inspect
import io
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import OrderedDict
from importlib import import_module
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.utils.data import Dataset

from . import JOBS, LIBRARIES


# ---- materials

def small() -> nn.Module:
    "The network of jobs 1 to 6: four blocks with BatchNorm, trained on katakana, and a new head."
    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                             nn.MaxPool2d(2))
    body = nn.Sequential(block(1, 12), block(12, 24), block(24, 48), block(48, 96))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(384, 46))
    body.load_state_dict(materials()["body"])
    return nn.Sequential(OrderedDict(body=body, head=head))


def empty() -> nn.Module:
    "The network of job 2: its body has no parameter."
    return nn.Sequential(OrderedDict(body=nn.Flatten(), head=nn.Linear(32 * 32, 46)))


def resnet() -> nn.Module:
    "The network of job 7: torchvision's ResNet-18 without its last layer, and a new one."
    from torchvision.models import resnet18
    layers = list(resnet18().children())[:-1]
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers, nn.Flatten()), head=nn.Linear(512, 8)))


def materials() -> dict:
    return torch.load(os.environ["SCOREBOARD_MATERIALS"], weights_only=True)


class Pictures(Dataset):
    "Pictures and their classes. After `SCOREBOARD_KILL` of them were asked for, the process dies by SIGKILL."
    def __init__(self, kind: str):
        self.x, self.y = materials()[kind]
        self.left = int(os.environ.get("SCOREBOARD_KILL", 0))

    def __len__(self): return len(self.y)

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.x[index], self.y[index]


def seed() -> None:
    random.seed(0), numpy.random.seed(0), torch.manual_seed(0)


# ---- what a model is

def tensors(part) -> dict:
    "Name -> (kind, copy) of all that a part of a model holds: parameters, and what else is saved with it."
    if isinstance(part, dict):
        return part
    if hasattr(part, "moving_tensors"):  # another kind of model says it itself
        return part.moving_tensors()
    own = dict(part.named_parameters())
    return {name: ("parameter" if name in own else "buffer", value.detach().clone())
            for name, value in part.state_dict().items()}


def moved(before: dict, after: dict) -> dict:
    "How many single parameters and how many buffers differ in any bit, and by how much at most."
    found = dict(parameters=0, of_parameters=0, buffers=0, of_buffers=0, parameters_by=0.0, buffers_by=0.0, gone=[])
    for name, (kind, old) in before.items():
        new = after[name][1] if name in after else None
        if new is None:
            found["gone"].append(name)
            continue
        differ = (old != new)
        by = (old - new).abs().max().item() if old.is_floating_point() and old.numel() else 0.0
        count = differ.sum().item() if kind == "parameter" else int(differ.any())
        found[f"{kind}s"] += count
        found[f"of_{kind}s"] += old.numel() if kind == "parameter" else 1
        found[f"{kind}s_by"] = max(found[f"{kind}s_by"], by)
    return found


def say_moved(found: dict) -> str:
    if not found["parameters"] and not found["buffers"]:
        return f"all {found['of_parameters']:,} parameters and {found['of_buffers']} buffers are the same"
    return "; ".join(
        f"{found[kind]:,} of {found['of_' + kind]:,} {kind} moved"
        + f", by up to {found[kind + '_by']:.2g}" * bool(found[kind])
        for kind in ("parameters", "buffers"))


# ---- the judges: each returns a verdict and a note

def judge_still(job) -> tuple:
    looks, bodies = job(small(), Pictures("hiragana")), []
    for model in looks:
        bodies.append((tensors(model.body), tensors(model.head), model))
    (body, head, _), (body_after, head_after, model) = bodies
    assert moved(head, head_after)["parameters"], "the head did not learn"
    start = tensors(small().body)
    assert len(start) != len(body) or moved(start, body)["parameters"], "the body did not learn before"
    found = moved(body, body_after)
    by_batch = [m for m in getattr(model.body, "modules", list)() if isinstance(m, nn.BatchNorm2d)
                and m.training and not m.track_running_stats and m.running_mean is not None]
    note = say_moved(found)
    if by_batch:
        note += "; but it normalises by the batch while it trains, and by the stored statistics otherwise"
    if found["gone"]:
        note += f"; {len(found['gone'])} counters of batches are left out while frozen"
    return "no" if found["parameters"] or found["buffers"] else "yes", note


@contextlib.contextmanager
def heard():
    "Warnings, by Python's warnings or by logging."
    said = []

    class Listen(logging.Handler):
        def emit(self, record): said.append(record.getMessage())

    listener = Listen(logging.WARNING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logging.getLogger().addHandler(listener)
        try:
            yield said
        finally:
            logging.getLogger().removeHandler(listener)
            said += [str(warning.message) for warning in caught]


def first_sentence(text: str, most: int = 150) -> str:
    line = " ".join(text.split())
    line = line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " …"
    return line


def judge_refusal(job, model) -> tuple:
    learns = sum(p.numel() for p in model.parameters())
    try:
        with heard() as said:
            *_, model = job(model, Pictures("hiragana"))
    except Exception as error:
        assert "twins.py" not in traceback.format_exc(), traceback.format_exc()  # ours, not the library's
        return "yes", f"{type(error).__name__}: {first_sentence(str(error))}"
    still = learns - sum(p.numel() for p in model.parameters() if p.requires_grad)
    about = [text for text in said if any(word in text.lower() for word in ("froz", "freez", "match", "trainable"))]
    note = f"no error: {still:,} of {learns:,} parameters are frozen"
    return ("warns", f"{note}, with a warning: {first_sentence(about[0])}") if about else ("no", note + ", without a word")


def judge_nothing(job): return judge_refusal(job, empty())
def judge_typo(job): return judge_refusal(job, small())


def judge_seen(job) -> tuple:
    "The job shows a frozen body that stays still, trains, shows one that will move, trains; that is checked, too."
    texts, bodies = [], []
    for text, model in job(small(), Pictures("hiragana")):
        texts.append(str(text).strip())
        bodies.append(tensors(model.body))
    still, _, moving, _ = texts
    found = moved(bodies[0], bodies[1])
    assert not found["parameters"] and not found["buffers"], say_moved(found)
    found = moved(bodies[2], bodies[3])
    assert found["parameters"] or found["buffers"], "the body did not move"
    note = f"{say_moved(found)}: before it the text was"
    if still == moving:
        return "partly", f"{note} the same as for a still body, “{telling(still)}”"
    return "yes", f"{note} another, with “{telling(moving, besides=still)}”"


def telling(text: str, besides: str = "") -> str:
    "A line about what is frozen; one that is not in `besides`, too."
    lines = [" ".join(re.sub("[│┃|└━─]+", " ", line).split()) for line in text.splitlines()
             if line not in besides.splitlines()]
    words = ("problem", "modules in", "trainable", "frozen")
    about = [line for word in words for line in lines if word in line.lower()] or lines
    return first_sentence(about[0], 110)


def whole_state(model, optimizer, callbacks=()) -> dict:
    "Everything that a freeze may change, by a name for it."
    names = {id(p): name for name, p in model.named_parameters()}
    found = {"parameters": {name: id(p) for name, p in model.named_parameters()},
             "which learn": {name: p.requires_grad for name, p in model.named_parameters()},
             "values": {name: value.detach().clone() for name, value in model.state_dict().items()},
             "modes and settings of layers": {f"{name}.{key}": value for name, m in model.named_modules()
                                              for key, value in vars(m).items() if isinstance(value, (bool, int, float, str))},
             "kinds of layers": {name: type(m).__name__ for name, m in model.named_modules()},
             "hooks": {name: sum(len(hooks) for key, hooks in vars(m).items() if key.endswith("_hooks") and hooks)
                       for name, m in model.named_modules()},
             "callbacks": {i: type(callback).__name__ for i, callback in enumerate(callbacks)}}
    groups, state = groups_of(optimizer)
    found["groups of the optimizer"] = {i: ([names.get(id(p), "not in the model") for p in group], settings)
                                        for i, (group, settings) in enumerate(groups)}
    found["averages of the optimizer"] = {f"{names.get(id(p), 'not in the model')}.{key}": value.clone()
                                          for p, values in state.items() for key, value in values.items()
                                          if isinstance(value, torch.Tensor)}
    return found


def groups_of(optimizer) -> tuple:
    if hasattr(optimizer, "param_lists"):  # fastai's
        groups = [(list(group), dict(hyper)) for group, hyper in zip(optimizer.param_lists, optimizer.hypers)]
        return groups + [(["frozen before this"], optimizer.frozen_idx)], optimizer.state
    return [(group["params"], {k: v for k, v in group.items() if k != "params"})
            for group in optimizer.param_groups], optimizer.state


def differences(before: dict, after: dict) -> list:
    found = []
    for what, old in before.items():
        new = after[what]
        keys = [key for key in {**old, **new} if not same(old.get(key), new.get(key))]
        if keys:
            found.append(f"{what} ({len(keys)} of {len(old)})")
    return found


def same(one, other) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one is other or \
        (not isinstance(one, torch.Tensor) and one == other)


def judge_undo(job) -> tuple:
    def once(partly_frozen: bool) -> list:
        seed()
        model = small()
        if partly_frozen:
            model.body[0].requires_grad_(False)
        before, after = [look if isinstance(look, dict) else whole_state(*look) for look in job(model, Pictures("hiragana"))]
        return differences(before, after)
    plain, partly = once(False), once(True)
    if plain:
        return "no", "changed: " + ", ".join(plain)
    if partly:
        return "partly", "exact where everything learned before; with a block frozen before, changed: " + ", ".join(partly)
    return "yes", "exact, with a block that was frozen before, too"


def judge_resume(name: str, way: str, folder: Path) -> tuple:
    "Three processes for each order of the pictures: undisturbed, killed, called again."
    exact, notes, facts = {}, {}, {}
    each = len(Pictures("hiragana"))
    for shuffle in (True, False):
        ends = []
        for run, kills in (("undisturbed", [0]), ("killed", [each * 2 + each // 2, 0])):
            place = folder / f"{run}-{shuffle}"
            place.mkdir(parents=True)
            for kill in kills:
                code = in_own_process("run", name, way, place, int(shuffle), kill=kill)
                if kill:
                    assert code == -signal.SIGKILL, f"{name}: not killed, but {code}"
                    saved = [p for p in place.rglob("*") if p.is_file()]
                    assert saved, f"{name}: nothing was saved before the kill"
                elif code:
                    return "no", "the second call fails: " + (place / "error.txt").read_text()
            ends.append(torch.load(place / "end.pt", weights_only=True))
            facts[run] = json.loads((place / "facts.json").read_text())
        found = moved(*ends)
        exact[shuffle] = not found["parameters"] and not found["buffers"]
        notes[shuffle] = "the same bits" if exact[shuffle] else say_moved(found).replace("moved", "differ")
    if exact[True] and exact[False]:
        return "yes", "the same bits at the end, with pictures in random order, too"
    note = f"in random order {notes[True]}; in fixed order {notes[False]}"
    learns, alone = facts["killed"]["learns"], facts["undisturbed"]["learns"]
    if learns != alone:
        note += f"; after the second call {learns:,} parameters learn, without a kill {alone:,}"
    if facts["killed"]["epochs"] != 3:
        note += f"; the second call trained {facts['killed']['epochs']} epochs where 3 were left"
    return "partly" if exact[False] else "no", note


def run_once(name: str, way: str, place: Path, shuffle: bool) -> None:
    "The child of `judge_resume`."
    try:
        pictures = Pictures("hiragana")
        model = ways_of(name)[way](small(), pictures, place, shuffle)
        torch.save({key: value for part in (model.body, model.head) for key, value in
                    ((f"{id(part) == id(model.head)}.{n}", v) for n, v in tensors(part).items())}, place / "end.pt")
        learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
        (place / "facts.json").write_text(json.dumps(dict(learns=learns, epochs=round(-pictures.left / len(pictures)))))
    except Exception as error:
        (place / "error.txt").write_text(f"{type(error).__name__}: {first_sentence(str(error))}")
        raise


def in_own_process(*words, kill: int = 0, **more) -> int:
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "rivals.jobs", *map(str, words)],
                          env=os.environ | {"SCOREBOARD_KILL": str(kill)}, cwd=Path(__file__).parents[1],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode > 0:
        sys.stderr.write(done.stderr[-2000:])
    return done.returncode


# ---- time and memory

def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_times(name: str, way: str, turns: int) -> list:
    "Seconds of a frozen epoch, beside the same by hand in the same process; the two take turns, after a warm-up."
    seed()
    hand = ways_of("PyTorch")["epoch"](resnet(), Pictures("emoji"))
    seed()
    other = ways_of(name)[way](resnet(), Pictures("emoji"))
    rows = []
    for turn in range(turns + 1):
        order = [("by_hand", hand), ("seconds", other)][:: 1 if turn % 2 else -1]
        times = {key: seconds(work) for key, work in order}
        rows += [dict(turn=turn, **times)] if turn else []
    return rows


def resident(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure_memory(name: str, way: str) -> int:
    "How far the resident memory of this process rises above what it had before the first frozen epoch."
    import threading
    seed()
    epoch = ways_of(name)[way](resnet(), Pictures("emoji"))
    before, most, stop = resident("VmRSS"), 0, threading.Event()

    def watch():
        nonlocal most
        while not stop.is_set():
            most = max(most, resident("VmRSS"))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    epoch(), epoch()
    stop.set()
    watcher.join()
    return most - before


# ---- code

def ways_of(name: str) -> dict:
    "The job functions of a library: `still`, and `still_2` where its documentation offers another way."
    file = import_module(f"rivals.{LIBRARIES[name]}")
    return {key: value for key, value in vars(file).items() if inspect.isfunction(value)
            and key.rstrip("_23") in JOBS and value.__module__ == file.__name__}


def without_looks(tree: ast.AST) -> ast.AST:
    "Take out what is not the user's: docstrings, imports, and the places where the scoreboard looks."
    class Strip(ast.NodeTransformer):
        def visit_Expr(self, node):
            return None if isinstance(node.value, (ast.Yield, ast.Constant)) else node

        def visit_Import(self, node): return None
        visit_ImportFrom = visit_Import
    return ast.fix_missing_locations(Strip().visit(tree))


def lines_of(file: Path, way: str) -> int:
    "Lines of what a user writes for a job: its statements, and those of the file's own helpers that it uses."
    tree = without_looks(ast.parse(file.read_text(encoding="utf-8")))
    defined = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    wanted, used = [way], []
    while wanted:
        name = wanted.pop()
        if name in used:
            continue
        used.append(name)
        wanted += [n.id for n in ast.walk(defined[name]) if isinstance(n, ast.Name) and n.id in defined
                   and n.id.rstrip("_23") not in JOBS]
    text = "\n".join(ast.unparse(defined[name]) for name in used)
    return sum(bool(line.strip()) for line in text.splitlines()) - 1  # without the line `def way(...)`


def code_of(file: Path) -> dict:
    "The file in pieces: each job's function, and before them what they share."
    text = file.read_text(encoding="utf-8")
    lines, pieces = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name.rstrip("_23") in JOBS:
            pieces[node.name] = "\n".join(lines[node.lineno - 1:node.end_lineno])
        elif not (isinstance(node, ast.Assign) and node.targets[0].id.isupper()):  # what the board says, no code
            start = min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]])
            gap = "\n\n\n" if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else "\n"
            pieces["shared"] = (pieces.get("shared", "") + gap + "\n".join(lines[start - 1:node.end_lineno])).strip("\n")
    return pieces


# ---- one job of one library, in a process of its own

def main(words: list) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    seed()
    what, name, way, *rest = words
    with contextlib.redirect_stdout(io.StringIO()):
        if what == "run":
            return run_once(name, way, Path(rest[0]), bool(int(rest[1])))
        job, place = way.rstrip("_23"), Path(rest[0])
        if what == "times":
            answer = measure_times(name, way, int(rest[1]))
        elif what == "memory":
            answer = measure_memory(name, way)
        elif job == "resume":
            answer = judge_resume(name, way, place.with_suffix(""))
        else:
            answer = globals()[f"judge_{job}"](ways_of(name)[way])
    place.write_text(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
