"""Run the experiments over many seeds, and write nbs/results/*.csv.

    python tools/run_experiments.py [--seeds 20] [NOTEBOOK ...]

Each notebook of experiments runs from the top with FT_TUTORIAL_SEEDS set; its own assertions hold for the
long run too. All of them take about TIME on two cores. A result is written after each run, so a second call
goes on where the first one stopped; delete a file in nbs/results to measure it anew.
"""
import argparse
import os
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


def run(notebook: Path) -> int:
    "Run a notebook in a process of its own; the exit code."
    process = get_context("spawn").Process(target=run_cells, args=[notebook])
    process.start()
    process.join()
    return process.exitcode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds (20)")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds {arguments.seeds}: at least 1")
    os.environ |= dict(FT_TUTORIAL_SEEDS=str(arguments.seeds), MPLBACKEND="agg", OMP_NUM_THREADS="1",
                       PYTHONWARNINGS="ignore::FutureWarning:torch.jit._script")  # fastai's import, harmless
    failed = []
    for notebook in [path.resolve() for path in arguments.notebooks] or experiments():
        print(f"--- {notebook.stem}, {arguments.seeds} seeds", flush=True)
        start = time.time()
        if run(notebook):
            failed.append(notebook.stem)
        print(f"    {(time.time() - start) / 60:.0f} minutes", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
