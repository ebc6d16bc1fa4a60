"""`make experiments`: what only a process of its own can show."""
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

tool = Path(__file__).parents[1] / "tools" / "run_experiments.py"

CELL = """
import os
from pathlib import Path
from ft_tutorial.experiments import repeat

def run(seed, shift):
    print("run", seed, flush=True)
    if seed == 502 and not Path("again").exists(): os._exit(9)  # as if killed
    return dict(value=seed + shift)

runs = repeat("toy", run, {"plain": dict(shift=0), "shifted": dict(shift=1)}, live=["plain"])
assert runs.value.tolist() == [501, 502, 502, 503]
"""


@pytest.fixture
def experiment(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbformat.write(notebook, tmp_path / "toy.ipynb")
    command = [sys.executable, tool, "--seeds", "501-502", "--results", tmp_path / "fresh", tmp_path / "toy.ipynb"]
    return tmp_path, lambda: subprocess.run(command, capture_output=True, text=True)


def test_a_killed_run_goes_on_where_it_stopped_and_says_what_failed(experiment):
    folder, call = experiment
    killed = call()
    assert killed.returncode == 1 and "failed: toy" in killed.stderr
    assert (folder / "fresh" / "toy.csv").read_text().splitlines() == ["condition,seed,value", "plain,501,501",
                                                                       "shifted,501,502"]
    (folder / "again").touch()
    resumed = call()
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("run 502") == 2 and "run 501" not in resumed.stdout
    assert "100.00%" in resumed.stdout and "minutes of processor time" in resumed.stdout  # progress, and the time
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["fresh"]


@pytest.mark.parametrize("seeds", ["0", "many", "5-1", "-5", "1-"])
def test_wrong_seeds_are_refused_before_anything_runs(seeds):
    result = subprocess.run([sys.executable, tool, f"--seeds={seeds}"], capture_output=True, text=True)
    assert result.returncode == 2 and "neither a number from 1 nor a range such as 501-505" in result.stderr
