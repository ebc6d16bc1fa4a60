"No file that a user names can run code, nothing asks for another host, and what is fetched for tests is what was pinned."
import ast
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from importlib import util
from pathlib import Path

import npm_packages  # of tools/
import offline  # of tools/
import pytest
import torch
from fastai.torch_core import set_seed
from test_checkpoints import make_learner
from test_naming import FACTS, OPTIONS
from torch import nn

from ft_tutorial.checkpoints import read_checkpoint
from ft_tutorial.cli import main
from ft_tutorial.finetuning import fine_tune
from ft_tutorial.materials import _map_lite0
from ft_tutorial.movement import compare, moved
from ft_tutorial.matching import tensors_of
from ft_tutorial.naming import describe_run

root = Path(__file__).parents[1]


# Files that would run code

class Evil:
    "Writes a file when it is unpickled."
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.write_text, (self.witness, "code was run")


def weights() -> nn.Module:
    set_seed(0)
    return nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 3))


def as_zip(path, evil):
    torch.save({"model": weights().state_dict(), "opt": evil}, path)


def as_legacy(path, evil):
    torch.save({"model": weights().state_dict(), "opt": evil}, path, _use_new_zipfile_serialization=False)


def as_pickle(path, evil):
    path.write_bytes(pickle.dumps(evil))


def as_tar(path, evil):
    "What PyTorch wrote before version 0.2."
    (part := path.with_name("pickle")).write_bytes(pickle.dumps(evil))
    with tarfile.open(path, "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            file.add(part, name)
    part.unlink()


FILES = {"zip": (as_zip, "evil.pth"), "legacy": (as_legacy, "evil.pth"), "pickle": (as_pickle, "evil.pkl"),
         "tar": (as_tar, "evil.pth"), "called safetensors": (as_zip, "evil.safetensors")}


def name_with(*paths) -> None:
    if code := main(["name", *map(str, paths), *OPTIONS]):
        raise ValueError(f"exit code {code}")


def describe_with(path, folder) -> None:
    with moved(model := weights()) as movement:
        model[0].weight.data += 1
    describe_run(movement, source=path, **FACTS)


READERS = {
    "fine_tune": lambda path, folder: fine_tune(make_learner(folder), 1, checkpoint=path),
    "read_checkpoint": lambda path, folder: read_checkpoint(path),
    "tensors_of": lambda path, folder: tensors_of(path),
    "compare, before": lambda path, folder: compare(path, weights()),
    "compare, after": lambda path, folder: compare(weights(), path),
    "describe_run": describe_with,
    "ft_tutorial name, before": lambda path, folder: name_with(path, folder / "good.pth"),
    "ft_tutorial name, after": lambda path, folder: name_with(folder / "good.pth", path),
    "weights that come with the install": lambda path, folder: _map_lite0(path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("file", FILES)
def test_no_code_is_run(tmp_path, capsys, file, reader):
    write, name = FILES[file]
    path, witness = tmp_path / "files" / name, tmp_path / "witness"
    path.parent.mkdir()
    write(path, Evil(witness))
    torch.save(weights().state_dict(), tmp_path / "good.pth")
    before = path.read_bytes()
    with pytest.raises(ValueError) as error:
        READERS[reader](path, tmp_path)
    said = str(error.value) + capsys.readouterr().err
    assert str(path) in said and len(said) < 600
    assert not witness.exists()
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("file", FILES)
def test_the_files_would_run_code(tmp_path, file):
    "The control."
    write, name = FILES[file]
    write(tmp_path / name, Evil(tmp_path / "witness"))
    try:
        torch.load((tmp_path / name).rename(tmp_path / "evil"), weights_only=False)
    except Exception:  # of what comes after the code
        pass
    assert (tmp_path / "witness").exists()


# Calls that would read them

def dangerous(code: str) -> list[str]:
    "Calls that run what a file says, by name."
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name.endswith(("torch.load", "load_learner")) and given.get("weights_only") != "True":
                found.append(name)
            if name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", "False") != "False":
                found.append(name)
            if name.split(".")[-1] in ("read_pickle", "Unpickler") or given.get("shell") == "True" or name in (
                    "pickle.load", "pickle.loads", "joblib.load", "torch.jit.load", "yaml.load", "eval", "exec", "os.system"):
                found.append(name)
    return found


def test_the_package_and_the_site_call_none():
    files = [*(root / "ft_tutorial").glob("*.py"), *(root / "site").glob("*.py")]
    found = {path.name: calls for path in files if (calls := dangerous(path.read_text(encoding="utf-8")))}
    assert len(files) > 30
    assert not found


def test_dangerous_calls_are_found():
    "The control."
    code = ("torch.load(path)\ntorch.load(path, weights_only=False)\npickle.load(file)\nload_learner(path)\n"
            "np.load(path, allow_pickle=True)\npd.read_pickle(path)\nsubprocess.run(line, shell=True)\nexec(text)")
    assert len(dangerous(code)) == 8
    assert not dangerous("torch.load(path, weights_only=True)\nnp.load(path)\njson.loads(text)\nsubprocess.run(line)")


# The network

quiet = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
asks = ["socket.create_connection(('192.0.2.1', 80), 3)", "socket.getaddrinfo('example.org', 443)",
        "socket.create_connection(('2001:db8::1', 443), 3)"]


def code_of(program: str) -> int:
    return subprocess.run([sys.executable, root / "tools/offline.py", sys.executable, "-c", program],
                          capture_output=True).returncode


@pytest.mark.skipif(not offline.own_network(), reason="this system lends no network of its own")
def test_a_program_that_asks_for_another_host_is_found():
    "The control for the test command, which runs all notebooks with the network off."
    assert code_of(quiet) == 0
    for ask in asks:
        assert code_of(f"import socket, contextlib\nwith contextlib.suppress(OSError): {ask}") == 3, ask
    assert code_of("1 / 0") == 1


@pytest.mark.skipif(not offline.own_network() or not util.find_spec("jupyterlab"), reason="needs both")
def test_jupyterlab_itself_asks_for_no_other_host():
    "That its pages do not is in test_jupyterlab, that notebooks do not in the test command."
    start = [sys.executable, root / "tools/offline.py", sys.executable, "-m", "pytest", "tests/test_cli.py", "-k"]
    done = subprocess.run([*start, "lab_copies"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


# What npm brings

def test_what_npm_fetches_is_pinned_by_its_checksum():
    asked = json.loads((npm_packages.PINNED / "package.json").read_text())
    locked = json.loads((npm_packages.PINNED / "package-lock.json").read_text())["packages"]
    wanted = asked["dependencies"] | asked["devDependencies"]
    assert {name.removeprefix("node_modules/"): one["version"] for name, one in locked.items() if name} == wanted
    for name, one in locked.items():
        assert not name or (one["integrity"].startswith("sha512-") and "resolved" not in one)
    scripts = [*(root / "tools").glob("*.py"), *(root / "site").glob("*.py")]
    assert [path.name for path in scripts if '["npm"' in path.read_text(encoding="utf-8")] == ["npm_packages.py"]


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_npm_refuses_another_checksum(tmp_path):
    try:
        npm_packages.install(tmp_path / "right", "--omit=dev", "--prefer-offline")  # the control
    except OSError as error:
        pytest.skip(f"npm can fetch nothing here: {error}")
    assert (tmp_path / "right/node_modules/axe-core/axe.min.js").exists()
    shutil.copytree(npm_packages.PINNED, tmp_path / "pinned")
    lock = json.loads((tmp_path / "pinned/package-lock.json").read_text())
    lock["packages"]["node_modules/axe-core"]["integrity"] = "sha512-" + "A" * 86 + "=="
    (tmp_path / "pinned/package-lock.json").write_text(json.dumps(lock))
    with pytest.raises((RuntimeError, OSError)):  # OSError with the network off, where npm looks for the other one
        npm_packages.install(tmp_path / "wrong", "--omit=dev", "--prefer-offline", pinned=tmp_path / "pinned")
    assert not (tmp_path / "wrong/node_modules/axe-core/axe.min.js").exists()
