"""The same jobs done by fastai, Keras, Lightning, skorch, peft and others, and by this project: `make scoreboard`.

    python bench/scoreboard.py [--only verdicts|times] [--libraries NAME ...] [--turns 5] [--threads 1]

What each job is stands in bench/rivals/jobs.py, what a user of a library writes for it in bench/rivals/. Each
job runs in a process of its own. The other libraries are installed into build/scoreboard, beside the project's
own PyTorch and never into its environment; `make clean` removes them. The outcome goes to nbs/results/:

    scoreboard.csv          a verdict and a note for each library, job and way
    scoreboard_times.csv    seconds of frozen epochs and bytes of memory, beside plain PyTorch by hand
    scoreboard_code.csv     the code that ran, of each library and job
    scoreboard_runs.csv     when, on which machine, with which versions

With `--libraries` the rows of the others stay as they are.
"""
import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import date
from importlib import metadata
from pathlib import Path

here = Path(__file__).resolve().parent
root = here.parent
build = root / "build" / "scoreboard"
results = root / "nbs" / "results"
PACKAGES = {  # library: what is installed for it beside the project's own environment
    "Keras": ["keras"], "Lightning": ["lightning"], "finetuning-scheduler": ["finetuning-scheduler"],
    "skorch": ["skorch"], "pytorch-accelerated": ["pytorch-accelerated"], "peft": ["peft"]}
DISTRIBUTION = {"PyTorch": "torch", "Keras": "keras", "Lightning": "lightning"}  # where it has another name


# ---- environments

def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def install(folder: Path, packages: list) -> str:
    "An environment that also sees the project's own, with `packages` at versions that leave that one as it is."
    stamp, wanted = folder / "installed.json", [sys.version, sorted(packages)]
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return ""
    say(f"installing {', '.join(packages)}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    python = python_of(folder)
    own = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True,
                         capture_output=True, text=True).stdout.strip()
    Path(own, "project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    fixed = folder / "constraints.txt"
    fixed.write_text("".join(f"{d.name}=={d.version}\n" for d in metadata.distributions() if d.name != "ft_tutorial"))
    done = subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "-c", fixed, *packages],
                          capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        return " ".join(errors)
    stamp.write_text(json.dumps(wanted))
    return ""


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environments(libraries: list) -> tuple:
    "The interpreter of each library, one for all where they agree; and why a library does not install."
    wanted = {library: PACKAGES[library] for library in libraries if library in PACKAGES}
    if not install(build / "environment", sorted({p for packages in PACKAGES.values() for p in packages})):
        return {library: python_of(build / "environment") for library in libraries}, {}
    pythons, refused = {library: Path(sys.executable) for library in libraries}, {}
    for library, packages in wanted.items():
        pythons[library] = python_of(build / library)
        if error := install(build / library, packages):
            refused[library] = error
    return pythons, refused


# ---- materials, the same for all

def make_materials(path: Path) -> None:
    "Weights of a network that reads katakana, hiragana and emoji, as plain tensors: the others never import this project."
    import torch

    from ft_tutorial.materials import emoji_dls, kana_dls, pretrain_katakana

    def plain(batch):
        return tuple(torch.Tensor(part) if part.is_floating_point() else part.as_subclass(torch.Tensor) for part in batch)

    kana = kana_dls("hiragana", 8, distort=0, batch_size=320).one_batch()
    emoji = emoji_dls(per_class=32, size=96, batch_size=256).one_batch()
    body = pretrain_katakana(progress=False)[0].state_dict()
    torch.save(dict(body=dict(body), hiragana=plain(kana), emoji=plain(emoji)), path)


# ---- one job, in a process of its own

def run(python: Path, what: str, library: str, way: str, threads: int, *more):
    "What `rivals/jobs.py` found out."
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        environment = os.environ | {
            "PYTHONPATH": str(here), "SCOREBOARD_MATERIALS": str(build / "materials.pt"), "KERAS_BACKEND": "torch",
            "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
        done = subprocess.run([python, "-W", "ignore", "-m", "rivals.jobs", what, library, way, answer, *map(str, more)],
                              env=environment, cwd=folder, capture_output=True, text=True, timeout=1800)
        if done.returncode:
            raise SystemExit(f"FAILED: {what}, {library}, {way}\n{done.stderr[-3000:]}")
        return json.loads(answer.read_text())


def version_of(python: Path, library: str) -> str:
    name = DISTRIBUTION.get(library, library)
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def described(library: str):
    "WAYS, DOCS, NOT_OFFERED and the job functions' names of a library's file, read without importing it."
    import ast

    from rivals.jobs import JOBS, LIBRARIES
    file = here / "rivals" / f"{LIBRARIES[library]}.py"
    values, functions = {}, []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id.isupper():
            code = compile(ast.Expression(node.value), str(file), "eval")
            values[node.targets[0].id] = eval(code, {}, values)  # constants of this file: texts and addresses
        elif isinstance(node, ast.FunctionDef) and node.name.rstrip("_23") in JOBS:
            functions.append(node.name)
    return file, values, functions


# ---- the two parts

def verdicts(libraries: list, pythons: dict, refused: dict, threads: int) -> list:
    from rivals.jobs import JOBS, lines_of
    rows = []
    for library in libraries:
        file, about, functions = described(library)
        same = dict(library=library, version=version_of(pythons[library], library) if library not in refused else "")
        for job in JOBS:
            docs = about["DOCS"].get(job, about["DOCS"][""])
            if library in refused:
                rows.append(same | dict(job=job, way="", verdict="does not install", note=refused[library], docs=docs, lines=""))
            elif job in about["NOT_OFFERED"]:
                rows.append(same | dict(job=job, way="", verdict="not offered", note=about["NOT_OFFERED"][job], docs=docs, lines=""))
            elif job != "epoch":
                for way in [name for name in functions if name.rstrip("_23") == job]:
                    verdict, note = run(pythons[library], "judge", library, way, threads)
                    say(f"{library}, {way}: {verdict} ({note})")
                    rows.append(same | dict(job=way, way=about["WAYS"].get(way, ""), verdict=verdict, note=note,
                                            docs=about["DOCS"].get(way, docs), lines=lines_of(file, way)))
    return rows


def times(libraries: list, pythons: dict, refused: dict, threads: int, turns: int) -> list:
    rows = []
    by_hand = [run(pythons[libraries[0]], "memory", "PyTorch", "epoch", threads) for _ in range(3)]
    for library in [name for name in libraries if name not in refused]:
        _, about, functions = described(library)
        for way in [name for name in functions if name.rstrip("_23") == "epoch"]:
            same = dict(library=library, version=version_of(pythons[library], library), job=way, way=about["WAYS"].get(way, ""))
            found = run(pythons[library], "times", library, way, threads, turns)
            rows += [same | dict(measure="seconds", turn=row["turn"], value=f"{row['seconds']:.4f}",
                                 by_hand=f"{row['by_hand']:.4f}") for row in found]
            for turn, hand in enumerate(by_hand, 1):
                rows.append(same | dict(measure="bytes", turn=turn, by_hand=hand,
                                        value=run(pythons[library], "memory", library, way, threads)))
            ratios = sorted(row["seconds"] / row["by_hand"] for row in found)
            say(f"{library}, {way}: {ratios[len(ratios) // 2]:.2f} times by hand ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
                f"{int(rows[-1]['value']) / 1e6:.0f} MB, by hand {by_hand[-1] / 1e6:.0f}")
    return rows


def code(libraries: list) -> list:
    from rivals.jobs import code_of
    return [dict(library=library, job=job, code=text) for library in libraries
            for job, text in code_of(described(library)[0]).items()]


def machine(part: str, threads: int, load: float) -> dict:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy")}
    return dict(part=part, date=date.today().isoformat(), processor=processor, cores=os.cpu_count(), threads=threads,
                load_average=f"{load:.2f}", system=platform.system(), python=platform.python_version(), **versions)


def write(name: str, rows: list, key: str, replaced: list) -> None:
    "Put `rows` into a result file; rows of other libraries, or of another part, stay."
    path = results / name
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row[key] not in replaced] + rows
    order = replaced if key == "part" else list(__import__("rivals.jobs", fromlist=["LIBRARIES"]).LIBRARIES)
    rows.sort(key=lambda row: order.index(row[key]) if row[key] in order else -1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    from rivals.jobs import LIBRARIES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["verdicts", "times"], help="one part; the other stays as it is")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="NAME",
                        help="of " + ", ".join(LIBRARIES))
    parser.add_argument("--turns", type=int, default=5, help="frozen epochs of each library and by hand")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
    build.mkdir(parents=True, exist_ok=True)
    pythons, refused = environments(arguments.libraries)
    make_materials(build / "materials.pt")
    for part, work, name, more in (("verdicts", verdicts, "scoreboard.csv", []),
                                   ("times", times, "scoreboard_times.csv", [arguments.turns])):
        if arguments.only in (None, part):
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
            rows = work(arguments.libraries, pythons, refused, arguments.threads, *more)
            write(name, rows, "library", arguments.libraries)
            write("scoreboard_code.csv", code(arguments.libraries), "library", arguments.libraries)
            write("scoreboard_runs.csv", [machine(part, arguments.threads, load)], "part", [part])


if __name__ == "__main__":
    main()
