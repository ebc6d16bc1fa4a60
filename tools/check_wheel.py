"""Run by `release_check.py` in an environment that has the built package and no torch.

    python check_wheel.py [old]      `old`: a fastai that is too old lies there, too
"""
import importlib.util
import subprocess
import sys
from pathlib import Path

import ft_tutorial
from ft_tutorial.lab import copy_notebooks, shipped

old = "old" in sys.argv


def command(*arguments) -> tuple:
    "Exit code and messages of the installed command; a traceback is none."
    script = Path(sys.executable).with_name("ft_tutorial")
    done = subprocess.run([script, *arguments], capture_output=True, text=True, encoding="utf-8")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


assert importlib.util.find_spec("torch") is None, "this environment was to have no torch"
assert "site-packages" in ft_tutorial.__file__, ft_tutorial.__file__
assert {"freeze", "unfreeze", "fine_tune", *ft_tutorial.__all__} <= set(dir(ft_tutorial))
verdicts = ft_tutorial.name_run(ft_tutorial.Run())
assert verdicts["plain"].fine_tuning, "the terms work without torch"
def says_the_cure(said: str) -> None:
    assert ('pip install --upgrade "fastai>=2.8.1"' if old else "pip install ft_tutorial") in said, said
    assert ("is installed, but >=2.8.1 is needed" if old else "fastai is not installed") in said, said


try:
    from ft_tutorial import freeze
except ImportError as error:
    says_the_cure(str(error))
else:
    raise AssertionError(f"{freeze} was imported without torch")
try:
    ft_tutorial.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
assert not {"torch", "fastai", "numpy"} & set(sys.modules)

assert shipped().name == "notebooks" and "site-packages" in str(shipped())
assert (len(copy_notebooks("copied")) > 40) is not old and Path("copied/NOTICE").exists()
assert command("term", "fine-tuning")[0] == 0
code, said = command("lab", "not-copied", "--no-browser")
assert code == 1 and 'pip install "ft_tutorial[notebooks]"' in said and not Path("not-copied").exists(), said
code, said = command("name", "source.pth", "trained.pth")
assert code == 1, said
says_the_cure(said)
code, said = command("doctor")
assert code == 1 and ("is needed" if old else "pip install ft_tutorial") in said, said
lines = said.splitlines()
below = [after.split()[:1] for line, after in zip(lines, lines[1:]) if line.startswith("✗")]
assert len(below) >= 5 and all(words == ["cure"] for words in below), said  # each fault has its cure
assert "Error:" not in said and "--force-reinstall" not in said, said
