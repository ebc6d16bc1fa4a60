"""Run notebooks as a reader would: each from the top, in a kernel of its own, two at a time.

    python tools/run_notebooks.py [--save] [NOTEBOOK ...]

A notebook passes when every cell runs and the text that its cells print is the text that is saved in it.
Decimal fractions may differ: training gives slightly other numbers on another processor; the cells'
own assertions say how far. With --save the new outputs are kept instead of compared.
"""
import argparse
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.test import nb_test_cells

root = Path(__file__).parents[1]
nbs = root / "nbs"


def text_of(outputs) -> str:
    "The text of a cell's outputs, with decimal fractions masked."
    parts = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        if output.get("output_type") == "error":
            text = output["ename"]
        parts.append(text if isinstance(text, str) else "".join(text))
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(parts))
    text = re.sub(r"-?\d*\.\d+(e[-+]?\d+)?", "#.#", text)
    return re.sub(r"[ \t─-]+", " ", text).strip()


def run_notebook(path: Path, save: bool, python: Path | None = None) -> tuple[str, float]:
    "Run one notebook, in another environment where its `python` is given; an empty message means that it passed."
    start = time.time()
    notebook = nbformat.read(path, as_version=4)
    runs = {cell.id for cell in nb_test_cells(path)}  # leaves out `#| eval: false` as nbdev-test does
    saved = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    client = NotebookClient(notebook, timeout=600, startup_timeout=300, iopub_timeout=120, kernel_name="python3",
                            extra_arguments=["--log-level=ERROR"],
                            resources={"metadata": {"path": str(path.parent)}})
    if python:
        client.create_kernel_manager()
        client.km.kernel_spec.argv[0] = str(python)
    stale = []
    try:
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code" or cell.id not in runs:
                    continue
                client.execute_cell(cell, index)
                if text_of(cell.outputs) != text_of(saved[cell.id]):
                    stale.append(f"cell {cell.id} printed\n{text_of(cell.outputs)}\n  where the saved output is\n"
                                 f"{text_of(saved[cell.id])}")
    except CellExecutionError as error:
        return f"{error}", time.time() - start
    if save:
        nbformat.write(notebook, path)
        nbdev_clean(fname=str(path))
    elif stale:
        return "stale outputs (make notebooks renews them):\n" + "\n".join(stale), time.time() - start
    return "", time.time() - start


def find_notebooks() -> list[Path]:
    "All notebooks of the project, the slow ones first."
    paths = [p for p in nbs.rglob("*.ipynb") if not re.search(r"/[._]", str(p.relative_to(root)))]
    return sorted(paths, key=lambda p: (-p.stat().st_size, p))


def run_all(paths: list[Path], save: bool = False, workers: int = 2, python: Path | None = None) -> tuple[int, int]:
    "Run `paths`, print a line for each, return how many passed and how many failed."
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]:  # side by side, one thread each is fastest
        os.environ[name] = "1"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning:torch.jit._script"  # fastai's import, harmless
    passed = failed = 0
    with ThreadPoolExecutor(workers) as pool:  # of one process, whose kernels take different ports
        futures = [(path, pool.submit(run_notebook, path, save, python)) for path in paths]
        for path, future in futures:
            message, seconds = future.result()
            passed, failed = passed + (not message), failed + bool(message)
            shown = path.relative_to(root) if path.is_relative_to(root) else path.name
            print(f"{'FAILED' if message else 'passed'} {seconds:6.1f} s  {shown}", flush=True)
            if message:
                print(message, flush=True)
    return passed, failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    chosen = [path.resolve() for path in arguments.notebooks] or find_notebooks()
    sys.exit(run_all(chosen, arguments.save)[1] > 0)
