"""What a cell cannot show: other processes that write, or die while writing, the same cache file."""
import os
import signal
import subprocess
import sys

import pytest
import torch

from ft_tutorial.assets import kept

BUILD = """
import os, signal, sys, time, torch
from ft_tutorial.assets import kept

class Deadly:
    def __reduce__(self): os.kill(os.getpid(), signal.SIGKILL)

def build():
    print("building", flush=True)
    if sys.argv[1] == "die": return {"weight": torch.ones(100_000), "end": Deadly()}
    time.sleep(1)
    return {"weight": torch.ones(100_000)}

print(kept("race", [1], build))
"""


def start(folder, how):
    environment = dict(os.environ, FT_TUTORIAL_CACHE=str(folder))
    return subprocess.Popen([sys.executable, "-c", BUILD, how], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_build_one_file(tmp_path):
    outputs = [p.communicate()[0].split("\n") for p in [start(tmp_path, "build") for _ in range(2)]]
    assert outputs[0][-2] == outputs[1][-2]
    path, = tmp_path.iterdir()
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.ones(100_000))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_a_writer_killed_half_way_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    process = start(tmp_path, "die")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left, = tmp_path.iterdir()
    assert left.suffix == ".part"
    monkeypatch.setenv("FT_TUTORIAL_CACHE", str(tmp_path))
    os.utime(left, (0, 0))
    path = kept("race", [1], lambda: {"weight": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True)["weight"].item() == 0
