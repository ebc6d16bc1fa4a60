"""Build the distributions and try them as a user would: each installed in a clean environment, away from this folder.

    python tools/release_check.py [--keep FOLDER]

It installs PyTorch twice, so it takes a while and some 15 GB of disk, given back at the end.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

root = Path(__file__).parents[1]
_config = ConfigParser(delimiters=["="], interpolation=None)
_config.read(root / "settings.ini", encoding="utf-8")
settings = _config["DEFAULT"]
MOST_BYTES = 12_000_000


def call(*command, **options) -> str:
    "Run a command and return what it prints; its output is shown only when it fails."
    options = dict(cwd=root, text=True, capture_output=True) | options
    result = subprocess.run([str(c) for c in command], **options)
    if result.returncode:
        raise SystemExit(f"FAILED: {' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout


def build(folder: Path) -> tuple:
    "The source distribution, and the wheel that is built from it."
    (root / f"{settings['lib_name']}.egg-info/SOURCES.txt").unlink(missing_ok=True)  # what was there before comes again
    call(sys.executable, "-m", "build", "--outdir", folder)
    call(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *folder.iterdir())
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def expected_in_wheel() -> set:
    "Every file that a user gets: the package, its data, the notebooks, the licences."
    package = root / settings["lib_name"]
    own = [*package.glob("*.py"), package / "py.typed", *package.glob("data/*/*")]
    notebooks = [path for pattern in ("*.ipynb", "ja/*.ipynb", "results/*.csv")
                 for path in (root / "nbs").glob(pattern)]
    files = {path.relative_to(root).as_posix() for path in own}
    files |= {f"{package.name}/notebooks/{path.relative_to(root / 'nbs').as_posix()}" for path in notebooks}
    version = re.search(r'__version__ = "(.+)"', (package / "__init__.py").read_text(encoding="utf-8"))[1]
    names = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE", "licenses/NOTICE")
    return files | {f"{package.name}-{version}.dist-info/{name}" for name in names}


def check_contents(wheel: Path, sdist: Path) -> None:
    "The wheel holds what it should and nothing else; the source distribution holds what is under version control."
    with ZipFile(wheel) as file:
        there = set(file.namelist())
        (metadata,) = (file.read(name).decode() for name in there if name.endswith("METADATA"))
        assert all(file.read(name) == (root / name).read_bytes() for name in there if (root / name).exists())
    assert there == expected_in_wheel(), sorted(there ^ expected_in_wheel())
    for path in (wheel, sdist):
        assert path.stat().st_size < MOST_BYTES, f"{path.name} has {path.stat().st_size:,} bytes"
    for version in settings["python_versions"].split():
        assert f"Classifier: Programming Language :: Python :: {version}\n" in metadata
    assert f"Requires-Python: >={settings['min_python']}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata and "Classifier: Typing :: Typed\n" in metadata
    assert not re.search(r"\]\((?!https?:|#)", metadata), "a link of the description leads nowhere"
    if (root / ".git").exists() and shutil.which("git"):
        tracked = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        with tarfile.open(sdist) as file:
            packed = {member.name.partition("/")[2] for member in file if member.isfile()}
        made = {name for name in packed if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
        other = {name for name in tracked if (root / name).is_file()} ^ (packed - made)
        assert not other, f"MANIFEST.in takes other files than are under version control: {sorted(other)}"


def interpreters() -> dict:
    "Every supported Python of this machine, by version."
    found = {}
    for version in settings["python_versions"].split():
        here = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
        if "%d.%d" % sys.version_info[:2] == version:
            here.insert(0, sys.executable)
        for python in filter(None, here):  # a version manager's stand-in may not start
            if subprocess.run([str(python), "-c", "import venv"], capture_output=True).returncode == 0:
                found[version] = str(python)
                break
    return found


def environment(folder: Path, python: str = sys.executable) -> Path:
    "The interpreter of a new environment with nothing in it."
    call(python, "-m", "venv", "--without-pip", folder)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python: Path, *what) -> None:
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", *what)


def check_without_torch(wheel: Path, folder: Path) -> int:
    "On each Python: all modules compile, the terms work, and what is missing or too old is said with its cure."
    def check(version: str, python: str) -> None:
        here = folder / version
        own = environment(here, python)
        install(own, "--no-deps", wheel)
        call(own, "-m", "compileall", "-q", here / "lib", cwd=here)
        call(own, root / "tools/check_wheel.py", cwd=here)
        if python == sys.executable:
            install(own, "--no-deps", "fastai==2.7.19", "packaging")
            call(own, root / "tools/check_wheel.py", "old", cwd=here)

    found = interpreters()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, found, found.values()))
    return len(found)


# --- what only a release needs -----------------------------------------------------------------------------

@contextmanager
def step(text: str):
    "Print what is done, and how long it took."
    start = time.time()
    print(f"{text} ...", flush=True)
    yield
    print(f"    {time.time() - start:.0f} s", flush=True)


def doctor(python: Path, folder: Path) -> str:
    found = call(python.with_name("ft_tutorial"), "doctor", cwd=folder)
    print("    " + found.strip().replace("\n", "\n    "), flush=True)
    return found


def check_helpers(python: Path, folder: Path) -> None:
    "A plain install is enough for the helpers; what it leaves out is said in one sentence."
    call(python, "-W", "ignore", root / "tests/own_project.py", cwd=folder)
    assert doctor(python, folder).count("–  ") == 2, "notebook packages and weights are left out"
    code = "from ft_tutorial.materials import imagenet_body_file; imagenet_body_file()"
    done = subprocess.run([python, "-W", "ignore", "-c", code], cwd=folder, text=True, capture_output=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.endswith("Install: pip install 'ft_tutorial[notebooks]'"), last


def run_copied(python: Path, folder: Path, names: list | None = None) -> int:
    "Copy the notebooks out of the installed package, and run them there, in its own environment."
    from run_notebooks import run_all

    call(python, "-c", "from ft_tutorial.lab import copy_notebooks; copy_notebooks('mine')", cwd=folder)
    found = sorted((folder / "mine").rglob("*.ipynb"), key=lambda path: -path.stat().st_size)
    passed, failed = run_all([path for path in found if not names or path.stem in names], python=python)
    if failed:
        raise SystemExit(f"{passed} passed, {failed} failed")
    return passed


def check_same_files(python: Path, wheel: Path) -> None:
    "What was installed from the source distribution is what the wheel holds."
    where = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    with ZipFile(wheel) as file:
        for name in file.namelist():
            if ".dist-info/" not in name:
                assert (where / name).read_bytes() == file.read(name), name


def report(folder: Path) -> None:
    "All steps; the first that fails ends the run."
    with step("build both distributions, check their contents and their description"):
        wheel, sdist = build(folder / "dist")
        check_contents(wheel, sdist)
        for path in (wheel, sdist):
            print(f"    {path.name}: {path.stat().st_size:,} bytes")
    with step("without torch, on " + ", ".join(interpreters())):
        check_without_torch(wheel, folder / "light")
    with step("install the wheel, for the helpers only"):
        python = environment(folder / "wheel")
        install(python, wheel)
    with step("a user's program"):
        check_helpers(python, folder)
    with step("install the wheel with its notebooks"):
        install(python, f"ft_tutorial[notebooks] @ {wheel.as_uri()}")
        call(sys.executable, "-m", "pip", "--python", python, "check")
        assert "–  " not in doctor(python, folder)
    with step("run all notebooks from the installed package"):
        print(f"    {run_copied(python, folder)} notebooks passed")
    with step("drive its JupyterLab with a browser"):
        call(sys.executable, "-m", "pytest", "tests/test_jupyterlab.py",
             env=os.environ | {"FT_TUTORIAL_PYTHON": str(python)})
    shutil.rmtree(folder / "wheel")
    with step("install the source distribution with its notebooks"):
        python = environment(folder / "sdist")
        install(python, f"ft_tutorial[notebooks] @ {sdist.as_uri()}")
        check_same_files(python, wheel)
        doctor(python, folder)
    with step("run the first notebooks from it"):
        print(f"    {run_copied(python, folder, ['index', '00_terms', '02_freezing'])} notebooks passed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put the distributions there when all is well")
    arguments = parser.parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder))
        if arguments.keep:
            shutil.copytree(Path(folder) / "dist", arguments.keep, dirs_exist_ok=True)
    print(f"All well, in {(time.time() - start) / 60:.0f} minutes.")
