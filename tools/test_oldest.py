"""Run the helpers' tests and notebooks with the oldest versions that the metadata allows, on the oldest Python here.

    python tools/test_oldest.py

It installs an older PyTorch, so it takes a while and some 8 GB of disk, given back at the end. `make test` runs the
same with the newest versions.
"""
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from release_check import build, call, environment, install, interpreters, settings, step
from run_notebooks import find_notebooks, run_all

# For the newest versions only: hints are checked by a tool of its own, JupyterLab and the site by a browser, and the
# changes of `make mutants` are made beside nbdev, which is not installed here.
NOT_HERE = ["test_types.py", "test_jupyterlab.py", "test_site.py", "test_mutants.py"]


def oldest() -> list:
    "Every lower bound of settings.ini, as the one version that is installed."
    asked = settings["requirements"].split() + settings["notebooks_requirements"].split()
    return [f"{name}=={bound}" for name, bound in (re.fullmatch(r"([\w-]+)>=([\d.]+)", text).groups()
                                                   for text in asked if ">=" in text)]


def run(folder: Path) -> None:
    version, found = next(iter(interpreters().items()))
    with step(f"install {', '.join(oldest())} on Python {version}"):
        wheel, _ = build(folder / "dist")
        python = environment(folder / "env", found)
        install(python, *oldest(), f"ft_tutorial[notebooks] @ {wheel.as_uri()}", "pytest", "hypothesis", "accelerate", "peft")
        call(sys.executable, "-m", "pip", "--python", python, "check")
    with step("the helpers' tests"):  # pytest's own script keeps this folder's package out of the way
        skipped = [f"--ignore=tests/{name}" for name in NOT_HERE]
        print("    " + call(python.with_name("pytest"), "-W", "ignore", "tests", *skipped).strip().splitlines()[-1])
    with step("the notebooks that make the package"):
        mine = [path for path in find_notebooks() if re.match("0[0-6]", path.name)]
        passed, failed = run_all(mine, python=python)
        if failed:
            raise SystemExit(f"{passed} passed, {failed} failed")


if __name__ == "__main__":
    start = time.time()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))
    print(f"All well with the oldest versions, in {(time.time() - start) / 60:.0f} minutes.")
