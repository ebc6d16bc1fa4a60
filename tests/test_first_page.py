"The first page as a reader uses it: each recipe copied alone, in a fresh interpreter, and the install lines."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[1]


def sources(page: str) -> dict:
    "The text of each cell, by its id."
    cells = json.loads((root / "nbs" / page).read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells}


def alone(code: str, folder: Path) -> str:
    "What a fresh interpreter says of it; empty when all went well."
    how = dict(cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], **how)
    return done.stderr if done.returncode else ""


def test_each_recipe_runs_alone_after_its_imports(tmp_path):
    cells = sources("index.ipynb")
    recipes = [["own-vision"], ["own-module"], ["own-words-data", "own-words"]]
    texts = ["\n".join(cells[name] for name in ["own-imports", *recipe]) for recipe in recipes]
    each = "".join(f"exec({text!r}, {{'__name__': '__main__'}})\n" for text in texts)  # names are not shared
    assert alone(each, tmp_path) == ""


def test_a_recipe_without_the_imports_fails(tmp_path):
    assert "NameError" in alone(sources("index.ipynb")["own-module"], tmp_path)


@pytest.mark.parametrize("page", ["index.ipynb", "ja/index.ipynb"])
def test_the_install_lines_are_there_and_work_in_every_shell(page):
    text = "\n".join(sources(page).values())
    for line in ('pip install "ft_tutorial[notebooks]"', "pip install ft_tutorial`", "ft_tutorial lab", "ft_tutorial doctor"):
        assert line in text, line
    assert "install '" not in text and "install -e '" not in text, "cmd.exe knows no single quotes"
