"The type hints that an editor shows: pyright in basic mode, over the public modules and over a user's program."
import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import ft_tutorial

root = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def errors():
    "The lines that pyright marks, by file."
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    if subprocess.run([*command[:3], "--version"], capture_output=True).returncode:
        pytest.skip("pyright does not start: it needs Node.js, and the npm registry the first time")
    given = [*command, "ft_tutorial", "tests/own_project.py", "tests/wrong_use.py"]
    report = json.loads(subprocess.run(given, cwd=root, capture_output=True, text=True).stdout)
    assert report["summary"]["filesAnalyzed"] > 30, report["summary"]
    found = {}
    for mark in report["generalDiagnostics"]:
        if mark["severity"] == "error":
            where = found.setdefault(Path(mark["file"]).relative_to(root).as_posix(), {})
            where[mark["range"]["start"]["line"] + 1] = mark["message"]
    return found


def test_hints_of_the_package_and_of_a_users_program_are_right(errors):
    assert {file: marks for file, marks in errors.items() if file != "tests/wrong_use.py"} == {}


def test_wrong_use_is_marked(errors):
    lines = (root / "tests/wrong_use.py").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert set(errors["tests/wrong_use.py"]) == wrong


def test_the_users_program_runs(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", root / "tests/own_project.py"], cwd=tmp_path, check=True,
                   stdout=subprocess.DEVNULL)


def test_names_for_editors_are_the_public_names():
    source = Path(ft_tutorial.__file__).read_text(encoding="utf-8")
    told = {alias.asname: node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
            for alias in node.names if alias.asname}
    assert told == ft_tutorial._module_of
    assert (Path(ft_tutorial.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("kind", [ft_tutorial.Movement, ft_tutorial.Plan])
def test_what_is_declared_for_editors_is_what_is_there(kind):
    "`patch` adds these; the declaration says the same names, arguments and defaults."
    seen = vars(sys.modules[kind.__module__]) | {"TYPE_CHECKING": True, "__name__": "seen_by_editors"}
    exec("from __future__ import annotations\n" + inspect.getsource(kind.__mro__[1]), seen)
    declared = vars(seen["_Declared"])
    methods = {name: value for name, value in declared.items()
               if isinstance(value, (FunctionType, property, classmethod))}
    assert len(methods) >= 4
    for name, value in methods.items():
        assert _arguments(value) == _arguments(inspect.getattr_static(kind, name)), name
    for name in declared.get("__annotations__", {}):
        assert name.startswith("_") or isinstance(inspect.getattr_static(kind, name), property)


def _arguments(method) -> list:
    "Names and defaults of a function, a property or a class method."
    for inside in ("fget", "__func__", "f"):
        method = getattr(method, inside, method)
    return [(given.name, given.default) for given in inspect.signature(method).parameters.values()]
