"""What a freeze that holds costs and saves, beside fastai's.

    python bench/freezing.py [--threads 2] [--repeats 3] [--pictures 256] [--batch-size 32]

Every ratio comes from one run, in which the variants take turns epoch by epoch; the middle of the repeats
is printed. "yes" says that a stated aim is met.
"""
import argparse
import os
import subprocess
import sys
import threading
import time
from statistics import median

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, default=2, help="torch threads")
parser.add_argument("--repeats", type=int, default=3, help="epochs of each variant")
parser.add_argument("--pictures", type=int, default=256, help="pictures in an epoch")
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--peak", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS)
arguments = parser.parse_args()
for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
    os.environ[name] = str(arguments.threads)

import torch  # noqa: E402 (after the number of threads is set)
from fastai.callback.core import Callback, CancelValidException  # noqa: E402
from fastai.callback.training import BnFreeze  # noqa: E402
from fastai.data.core import DataLoaders  # noqa: E402
from fastai.losses import CrossEntropyLossFlat  # noqa: E402
from fastai.torch_core import set_seed  # noqa: E402
from fastai.vision.learner import vision_learner  # noqa: E402
from fastcore.basics import noop  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.models import resnet18  # noqa: E402

from ft_tutorial.freezing import freeze  # noqa: E402
from ft_tutorial.movement import moved  # noqa: E402

MODELS = {"ResNet-18, 96 px": (resnet18, 96, 1.8), "EfficientNet-lite0, 64 px": ("tf_efficientnet_lite0", 64, 2.5)}
VARIANTS = {
    "not frozen": lambda learner: learner.unfreeze(),
    "fastai's freeze": lambda learner: learner.freeze(),
    "freeze": lambda learner: freeze(learner),
    "by hand": lambda learner: learner.freeze(),  # the same stillness from train_bn=False and BnFreeze
}


class TrainOnly(Callback):
    def before_validate(self): raise CancelValidException


def learner_of(model: str, variant: str, pictures: int):
    "A learner with random weights and random pictures that never leaves the processor's memory."
    arch, size, _ = MODELS[model]
    set_seed(0)
    items = list(zip(torch.randn(pictures, 3, size, size), torch.randint(0, 8, (pictures,))))
    dls = DataLoaders.from_dsets(items, items[:1], bs=arguments.batch_size, num_workers=0, device="cpu")
    by_hand = [BnFreeze()] if variant == "by hand" else []
    learner = vision_learner(dls, arch, pretrained=False, n_out=8, normalize=False,
                             loss_func=CrossEntropyLossFlat(), train_bn=not by_hand,
                             cbs=[TrainOnly(), *by_hand])
    learner.remove_cb(learner.progress)
    learner.logger = noop
    VARIANTS[variant](learner)
    return learner


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(works: dict, turns: int) -> dict:
    "Seconds of each piece of work: a warm-up, then turns, in alternating order."
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for turn in range(turns):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(works[name]))
    return times


def table(title: str, rows: list) -> None:
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(str(value).ljust(width) for value, width in zip(row, widths)).rstrip(), flush=True)


def ratio(times: dict, slow: str, fast: str) -> float:
    "The middle of the ratios of neighbouring turns."
    return median(a / b for a, b in zip(times[slow], times[fast]))


def epochs() -> None:
    rows = [("model", "variant", "seconds an epoch", "ratio to freeze", "aim", "met")]
    for model, (_, _, aim) in MODELS.items():
        learners = {variant: learner_of(model, variant, arguments.pictures) for variant in list(VARIANTS)[:3]}
        times = take_turns({variant: lambda learner=learner: learner.fit(1, 1e-3)
                            for variant, learner in learners.items()}, arguments.repeats)
        for variant in times:
            times_as_fast = ratio(times, variant, "freeze")
            has_aim = variant == "fastai's freeze"
            rows.append((model, variant, f"{median(times[variant]):.2f}", f"{times_as_fast:.2f}",
                         f"{aim}" if has_aim else "", ("yes" if times_as_fast >= aim else "NO") if has_aim else ""))
    table(f"Training epochs of {arguments.pictures} pictures, batches of {arguments.batch_size}", rows)


def saved_bytes(learner) -> int:
    "Bytes of what autograd keeps for the backward pass of one batch, each storage once, parameters left out."
    own = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
    storages = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    x, y = learner.dls.one_batch()
    learner.model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        learner.loss_func(learner.model(x), y)
    return sum(size for _, size in storages.values())


def peak_bytes(model: str, variant: str) -> int:
    "Highest resident memory of a process of its own, above what it had before training; 0 where it is not known."
    if not os.path.exists("/proc/self/status"):
        return 0
    command = [sys.executable, __file__, "--peak", model, variant, "--threads", str(arguments.threads),
               "--batch-size", str(arguments.batch_size)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def memory() -> None:
    rows = [("model", "variant", "saved for backward, MB", "resident memory, MB more", "lower than fastai's")]
    for model in MODELS:
        theirs = None
        for variant in list(VARIANTS)[1:3]:
            now = saved_bytes(learner_of(model, variant, arguments.batch_size)), peak_bytes(model, variant)
            theirs = theirs or now
            lower = "" if now is theirs else "yes" if now[0] < theirs[0] and now[1] <= theirs[1] else "NO"
            rows.append((model, variant, f"{now[0] / 1e6:.1f}", f"{now[1] / 1e6:.1f}", lower))
    table("Memory of a training batch", rows)


def both_clocks(work) -> tuple:
    "Seconds by the clock on the wall, and seconds of processor time, which other processes disturb less."
    processor = time.process_time()
    return seconds(work), time.process_time() - processor


def seconds_a_hook(calls: int = 500) -> float:
    "What our hook adds to one call of a layer, PyTorch's own way through hooks included: least of 20."
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(1, 1))
    freeze(model, "0|1")
    layer, x, costs = model[1], torch.randn(1, 4, 1, 1), []
    hooks = dict(layer._forward_pre_hooks)
    for _ in range(20):
        layer._forward_pre_hooks.update(hooks)
        with_hook = both_clocks(lambda: [layer(x) for _ in range(calls)])[1]
        layer._forward_pre_hooks.clear()
        layer.eval()
        costs.append((with_hook, both_clocks(lambda: [layer(x) for _ in range(calls)])[1]))
    return (min(cost for cost, _ in costs) - min(cost for _, cost in costs)) / calls


def overhead() -> None:
    rows = [("model", "what", "by the wall clock", "in processor time", "spread of the ratios", "aim", "met")]
    for model in MODELS:
        learners = [learner_of(model, variant, 2 * arguments.batch_size) for variant in ["by hand", "freeze"]]
        pairs = []
        for turn in range(20 * arguments.repeats + 1):
            order = learners[:: 1 if turn % 2 else -1]
            times = [both_clocks(lambda: learner.fit(1, 1e-3)) for learner in order]
            pairs.append(times if turn % 2 else times[::-1])
        pairs = pairs[1:]  # the first warms up
        wall, processor = [sorted(frozen[i] / hand[i] - 1 for hand, frozen in pairs) for i in range(2)]
        quarter = len(pairs) // 4
        rows.append((model, "frozen fit, beside the same by hand", f"{median(wall):+.2%}", f"{median(processor):+.2%}",
                     f"{processor[quarter]:+.1%} to {processor[-quarter - 1]:+.1%}", "under 1 %",
                     "yes" if median(processor) < 0.01 else "not settled: noise" if processor[quarter] < 0.01 else "NO"))
        held = sum(bool(m._forward_pre_hooks) for m in learners[1].model.modules())
        share = 2 * held * seconds_a_hook() / median(frozen[1] for _, frozen in pairs)
        rows.append((model, f"the {held} hooks alone", "", f"{share:+.2%}", "", "under 1 %",
                     "yes" if share < 0.01 else "NO"))
        once = median(seconds(lambda: freeze(learners[1])) for _ in range(5))
        rows.append((model, "one call of freeze", f"{1000 * once:.1f} ms", "", "", "", ""))
    table("What the wrapper adds to a frozen fit of two batches (middle half of the ratios as spread)", rows)


def watching() -> None:
    learner = learner_of("ResNet-18, 96 px", "not frozen", 512)

    def watch():
        with moved(learner):
            pass

    times = take_turns({"an epoch of 512 pictures": lambda: learner.fit(1, 1e-3), "moved": watch},
                       arguments.repeats)
    share = median(times["moved"]) / median(times["an epoch of 512 pictures"])
    table("What `moved` adds, ResNet-18 at 96 px, not frozen",
          [("snapshot and comparison, seconds", "epoch, seconds", "share", "aim", "met"),
           (f"{median(times['moved']):.3f}", f"{median(times['an epoch of 512 pictures']):.2f}", f"{share:.2%}",
            "under 2 %", "yes" if share < 0.02 else "NO")])


def resident(name: str) -> int:
    "Bytes that Linux reports for this process."
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def report_peak(model: str, variant: str) -> None:
    "Print how far resident memory rises above the learner's own while three batches are trained."
    learner = learner_of(model, variant, arguments.batch_size)
    before, most = resident("VmRSS"), 0
    stop = threading.Event()

    def watch():
        nonlocal most
        while not stop.is_set():
            most = max(most, resident("VmRSS"))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    learner.fit(3, 1e-3)
    stop.set()
    watcher.join()
    print(most - before)


if __name__ == "__main__":
    if arguments.peak:
        report_peak(*arguments.peak)
    else:
        print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.repeats} turns each")
        for part in [epochs, memory, overhead, watching]:
            part()
