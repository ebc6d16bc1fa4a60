"""What cached features, a plan and checkpoints save and cost, beside fastai's `freeze` and `fine_tune`.

    python bench/finetuning.py [--threads 1] [--repeats 3] [--per-class 24] [--batch-size 64] [--clock cpu] [--only TABLE] [--network NAME]

Emoji of 8 kinds, real pictures from files; fastai's side reads them in each epoch, as it always does. Every
ratio comes from one run in which the variants take turns; the middle of the repeats is printed. "yes" says
that a stated aim is met.
"""
import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=1, help="torch threads")
parser.add_argument("--repeats", type=int, default=3, help="turns of each variant")
parser.add_argument("--per-class", type=int, default=24, help="pictures of each kind to train on; a third as many to validate")
parser.add_argument("--batch-size", type=int, default=64, help="fastai's default; smaller ones take more steps of the head's optimizer")
parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor seconds, for a busy machine")
parser.add_argument("--only", choices=["frozen", "fine_tune", "overhead"], help="one of the tables")
parser.add_argument("--network", choices=["lite0", "ResNet-18"], help="one of the networks")
arguments = parser.parse_args()
for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
    os.environ[name] = str(arguments.threads)
warnings.filterwarnings("ignore")

import torch  # noqa: E402 (after the number of threads is set)
from fastai.metrics import accuracy  # noqa: E402
from fastai.torch_core import set_seed  # noqa: E402
from fastai.vision.learner import vision_learner  # noqa: E402
from fastcore.basics import noop  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

from ft_tutorial import checkpoints, finetuning  # noqa: E402
from ft_tutorial.caching import cache_size, cached  # noqa: E402
from ft_tutorial.finetuning import fine_tune  # noqa: E402
from ft_tutorial.freezing import freeze  # noqa: E402
from ft_tutorial.materials import emoji_dls, imagenet_body_file  # noqa: E402

torch.set_num_threads(arguments.threads)
clock = time.perf_counter if arguments.clock == "wall" else time.process_time
NETWORKS = {name: size for name, size in {"lite0, 64 px": 64, "ResNet-18, 96 px": 96}.items()
            if not arguments.network or name.startswith(arguments.network)}


def learner_of(network: str, size: int | None = None):
    "A learner on emoji; what is timed does not depend on the weights, so ResNet-18 has random ones."
    set_seed(0)
    per_class, size = arguments.per_class, size or NETWORKS[network]
    dls = emoji_dls(per_class=per_class, valid_per_class=per_class // 3, batch_size=arguments.batch_size, size=size)
    if network.startswith("lite0"):
        weights = dict(file=str(imagenet_body_file()))
        learner = vision_learner(dls, "tf_efficientnet_lite0", pretrained_cfg_overlay=weights, metrics=accuracy)
    else:
        learner = vision_learner(dls, resnet18, pretrained=False, metrics=accuracy)
    learner.remove_cb(learner.progress)
    learner.logger = noop
    return learner


def seconds(run, *given) -> float:
    start = clock()
    run(*given)
    return clock() - start


def turns(variants: dict, network: str) -> dict:
    "The times of each variant, which take turns; each turn has a fresh learner, made outside the clock."
    times = {name: [] for name in variants}
    for turn in range(arguments.repeats):
        for name, run in variants.items():
            learner = learner_of(network)
            for dl in learner.dls.loaders:
                list(dl)  # what is read once from the disk is read before the clock starts
            times[name].append(seconds(run, learner))
    return times


def fastai_frozen(learner):
    learner.freeze()
    learner.fit_one_cycle(10, 2e-3)


def strict_frozen(learner):
    freeze(learner)
    learner.fit_one_cycle(10, 2e-3)


def cached_frozen(learner):
    freeze(learner)
    with cached(learner):
        learner.fit_one_cycle(10, 2e-3)


def compare(title: str, times: dict, ours: str, theirs: str, aim: float) -> None:
    ratios = [a / b for a, b in zip(times[theirs], times[ours])]
    print(f"{title:<58}{median(times[theirs]):>9.2f}{median(times[ours]):>9.2f}{median(ratios):>9.2f}"
          f"   {min(ratios):.2f} to {max(ratios):.2f}   at least {aim}: {'yes' if median(ratios) >= aim else 'NO'}",
          flush=True)


def heading(*names) -> None:
    print(f"\n{names[0]:<58}" + "".join(f"{name:>9}" for name in names[1:]), flush=True)


def frozen_phase() -> None:
    heading("10 frozen epochs with validation, seconds", "fastai", "cached", "ratio")
    for network in NETWORKS:
        times = turns({"cached": cached_frozen, "fastai": fastai_frozen}, network)
        compare(network, times, "cached", "fastai", 6)
    heading("What a cached epoch is made of, milliseconds", "cached", "head", "share")
    for network in NETWORKS:
        parts(network)


def head_alone(head, opt, rows: list) -> None:
    "One epoch of the head in a plain loop with fastai's optimizer, training and validation: the floor."
    (x, y), (valid_x, valid_y) = rows
    loss = torch.nn.functional.cross_entropy
    batch_size = arguments.batch_size
    head.train()
    for batch in torch.randperm(len(x)).split(batch_size)[:len(x) // batch_size]:
        loss(head(x[batch]), y[batch]).backward()
        opt.step()
        opt.zero_grad()
    head.eval()
    with torch.no_grad():
        for batch in torch.arange(len(valid_x)).split(batch_size):
            loss(head(valid_x[batch]), valid_y[batch])


def parts(network: str) -> None:
    "A cached epoch against the head alone; the one pass of the body; predicted and kept bytes."
    learner = learner_of(network)
    freeze(learner)
    predicted = cache_size(learner)
    epochs, floors = [], []
    start = clock()
    with cached(learner) as report:
        entering = clock() - start
        rows = [dl._kept.rows for dl in learner.dls.loaders]
        kept = sum(part.untyped_storage().nbytes() for parts in rows for part in parts)
        learner.fit(1)
        head = learner.model[1][2:]  # after pooling, which is cached too
        plain = [[part.as_subclass(torch.Tensor) for part in parts] for parts in rows]
        for _ in range(arguments.repeats):
            epochs.append(seconds(learner.fit, 10) / 10)
            floors.append(sum(seconds(head_alone, head, learner.opt, plain) for _ in range(10)) / 10)
    epoch, floor = median(epochs), median(floors)
    print(f"{network:<58}{epoch * 1e3:>9.1f}{floor * 1e3:>9.1f}{floor / epoch:>9.0%}   entering the block "
          f"{entering:.2f} s; {predicted:,} bytes predicted, {report.bytes:,} reported, {kept:,} kept", flush=True)


def whole_fine_tune() -> None:
    heading("fine_tune, seconds", "fastai", "cached", "ratio")
    for epochs, freeze_epochs, aim in ((5, 5, 1.4), (1, 10, 3.5)):
        for network in NETWORKS:
            variants = {"cached": lambda learner: fine_tune(learner, epochs, freeze_epochs=freeze_epochs, cache=True),
                        "fastai": lambda learner: learner.fine_tune(epochs, freeze_epochs=freeze_epochs)}
            compare(f"fine_tune({epochs}, freeze_epochs={freeze_epochs}), {network}", turns(variants, network), "cached",
                    "fastai", aim)


def overhead() -> None:
    "Time inside `plan` and the writing of checkpoints, as a share of a run of about 30 seconds."
    spent = {"plan": 0.0, "checkpoints": 0.0}

    def timed(name, function):
        def run(*given, **how):
            start = clock()
            try:
                return function(*given, **how)
            finally:
                spent[name] += clock() - start
        return run

    keeper, plan = checkpoints._Keeper, finetuning.plan
    kept = {name: vars(keeper)[name] for name in ("__init__", "before_fit", "after_epoch", "after_cancel_fit")}
    with tempfile.TemporaryDirectory() as folder:
        try:
            finetuning.plan = timed("plan", plan)
            for name, function in kept.items():
                setattr(keeper, name, timed("checkpoints", function))
            path, learner = Path(folder) / "run.pt", learner_of("lite0, 96 px", 96)
            whole = seconds(lambda: fine_tune(learner, 5, checkpoint=path))
            size = path.stat().st_size
        finally:
            finetuning.plan = plan
            for name, function in kept.items():
                setattr(keeper, name, function)
    share, each = sum(spent.values()) / whole, spent["checkpoints"] / 6
    heading("Overhead of plan and checkpoints, seconds", "run", "plan", "files", "share")
    print(f"{f'fine_tune(5, checkpoint=...), lite0, 96 px; {size / 1e6:.0f} MB each':<58}{whole:>9.2f}"
          f"{spent['plan']:>9.3f}{spent['checkpoints']:>9.2f}{share:>9.2%}   under 2 %: {'yes' if share < 0.02 else 'NO'} "
          f"(and for all epochs of more than {each / 0.02:.1f} s)")


print(f"{arguments.threads} thread(s), {8 * arguments.per_class} pictures to train on, a third as many to validate, "
      f"batches of {arguments.batch_size}, {arguments.clock} clock, the middle of {arguments.repeats}")
for table in (frozen_phase, whole_fine_tune, overhead):
    if not arguments.only or arguments.only in table.__name__:
        table()
