"""All that continuous integration runs, in order; the first step that fails ends the run.

    python tools/run_tests.py
"""
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import browser
import offline
from release_check import build, call, check_contents, check_without_torch
from run_notebooks import find_notebooks

root = Path(__file__).parents[1]
scripts = Path(sys.executable).parent


def sources() -> dict[Path, bytes]:
    "Every file that nbdev or the README script may write."
    found = [*root.glob("nbs/**/*.ipynb"), *root.glob("ft_tutorial/*.py"), *root.glob("images/*"),
             root / "README.md"]
    return {path: path.read_bytes() for path in found if ".ipynb_checkpoints" not in path.parts}


def nothing_to_export() -> int:
    "The notebooks are clean, and the package and the README are what they generate."
    before = sources()
    call(scripts / "nbdev-export")
    call(scripts / "nbdev-clean")
    call(sys.executable, "tools/make_readme.py")
    after = sources()
    changed = sorted(str(p.relative_to(root)) for p in before.keys() | after.keys()
                     if before.get(p) != after.get(p))
    if changed:
        raise SystemExit("FAILED: nbdev-export, nbdev-clean or make readme changed: " + ", ".join(changed)
                         + "\nThey are changed now; look at the difference and commit it.")
    return 1


def fetching() -> int:
    "What the next steps need of the network, before it is switched off."
    print(f"    {browser.chromium()}\n    {browser.axe()}", flush=True)
    subprocess.run([sys.executable, "-m", "pyright", "--version"], capture_output=True)  # brings its program
    return 0


def notebooks() -> int:
    "No notebook looks for another host."
    if offline.run([sys.executable, "tools/run_notebooks.py"]):
        raise SystemExit("FAILED: notebooks")
    return len(find_notebooks())


def tests() -> int:
    "The network is off here too; what a page asks for is what the tests in a browser look at."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = offline.run([offline.MAY_ASK, sys.executable, "-m", "pytest", f"--junitxml={report}"])
        if code:
            raise SystemExit(f"FAILED: pytest ended with {code}")
        suite = ElementTree.parse(report).getroot().find("testsuite")
        return int(suite.get("tests")) - int(suite.get("skipped"))


def distributions() -> int:
    "What is built holds what it should, and works where there is no torch, on every Python of this machine."
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder) / "dist")
        check_contents(wheel, sdist)
        return check_without_torch(wheel, Path(folder))


if __name__ == "__main__":
    os.chdir(root)
    os.environ |= dict(PIP_RETRIES="10", PIP_DEFAULT_TIMEOUT="60")
    total = 0
    for step in [nothing_to_export, fetching, notebooks, tests, distributions]:
        start = time.time()
        print(f"--- {step.__name__.replace('_', ' ')}", flush=True)
        total += step()
        print(f"    {time.time() - start:.0f} s", flush=True)
    print(f"{total} passed, 0 failed")
