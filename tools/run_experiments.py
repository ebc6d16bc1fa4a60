"""Run the experiments over many seeds, and write nbs/results/*.csv.

    python tools/run_experiments.py [--seeds 20] [--results FOLDER] [NOTEBOOK ...]

Each notebook of experiments runs from the top with FT_TUTORIAL_SEEDS set; its own assertions hold for the
long run too. All of them take about an hour on two cores. A result is written after each run, so a second call
goes on where the first one stopped; delete a file in nbs/results to measure it anew.

Do the claims hold for seeds that nobody looked at? `--seeds 501-505 --results FOLDER` runs those five into a
folder of their own, and every claim is asserted of them.
"""
import argparse
import os
import re
import sys
import time
from multiprocessing import get_context
from pathlib import Path

nbs = Path(__file__).parents[1] / "nbs"


def experiments() -> list[Path]:
    "The notebooks that repeat something over seeds and keep it."
    return [path for path in sorted(nbs.glob("1[0-9]_*.ipynb")) if "repeat(" in path.read_text(encoding="utf-8")]


def run_cells(notebook: Path) -> None:
    "Run the code of a notebook as a script, so that progress bars show in a terminal."
    import nbformat

    os.chdir(notebook.parent)
    cells, names = nbformat.read(notebook, as_version=4).cells, {"__name__": "__main__"}
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{notebook.name}, cell {cell.id}", "exec"), names)
    print(f"    {time.process_time() / 60:.0f} minutes of processor time", flush=True)


def run(notebook: Path) -> int:
    "Run a notebook in a process of its own; the exit code."
    process = get_context("spawn").Process(target=run_cells, args=[notebook])
    process.start()
    process.join()
    return process.exitcode


def seeds(text: str) -> str:
    "`20`, or a range such as `501-505`."
    numbers = [int(number) for number in re.findall("[0-9]+", text)]
    if not re.fullmatch("[1-9][0-9]*|[0-9]+-[0-9]+", text) or numbers != sorted(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 nor a range such as 501-505")
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--seeds", type=seeds, default="20", help="how many (20), or which (501-505)")
    parser.add_argument("--results", type=Path, default=nbs / "results", metavar="FOLDER", help="where to write")
    arguments = parser.parse_args()
    os.environ |= dict(FT_TUTORIAL_SEEDS=arguments.seeds, FT_TUTORIAL_RESULTS=str(arguments.results.resolve()),
                       MPLBACKEND="agg", OMP_NUM_THREADS="1",
                       PYTHONWARNINGS="ignore::FutureWarning:torch.jit._script")  # fastai's import, harmless
    failed = []
    for notebook in [path.resolve() for path in arguments.notebooks] or experiments():
        print(f"--- {notebook.stem}, seeds {arguments.seeds}", flush=True)
        start = time.time()
        if run(notebook):
            failed.append(notebook.stem)
        print(f"    {(time.time() - start) / 60:.0f} minutes", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
