"""The same jobs done by fastai, Keras, Lightning, skorch, peft and others, and by this project: `make scoreboard`.

    python bench/scoreboard.py [--only verdicts|times] [--libraries NAME ...] [--jobs JOB ...] [--turns 5] [--threads 1]

What each job is stands in bench/rivals/jobs.py, what a user of a library writes for it in bench/rivals/. Each
job runs in a process of its own. The other libraries are installed into build/scoreboard, beside the project's
own PyTorch and never into its environment; `make clean` removes them. The outcome goes to nbs/results/:

    scoreboard.csv          a verdict and a note for each library, job and way
    scoreboard_times.csv    seconds of frozen epochs and bytes of memory, beside plain PyTorch by hand
    scoreboard_code.csv     the code that ran, of each library and job
    scoreboard_runs.csv     when, on which machine, with which versions: the last run of each part

With `--libraries` or `--jobs` the rows of the others stay as they are.
"""
import argparse
import ast
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

from rivals import JOBS, LIBRARIES

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
        return " ".join(errors)[:300]
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

def verdicts(libraries: list, pythons: dict, refused: dict, threads: int, jobs: list) -> list:
    rows = []
    for library in libraries:
        _, about, functions = described(library)
        same = dict(library=library, version="" if library in refused else version_of(pythons[library], library))
        for job in jobs:
            if library in refused:
                rows.append(same | dict(job=job, verdict="does not install", note=refused[library]))
                continue
            if job in about["NOT_OFFERED"]:
                rows.append(same | dict(job=job, verdict="not offered", note=about["NOT_OFFERED"][job]))
            for way in [name for name in functions if name.rstrip("_23") == job]:
                verdict, note = run(pythons[library], "judge", library, way, threads)
                say(f"{library}, {way}: {verdict} ({note})")
                rows.append(same | dict(job=way, verdict=verdict, note=note))
    return describe(rows)


def times(libraries: list, pythons: dict, refused: dict, threads: int, turns: int) -> list:
    rows = []
    by_hand = [run(pythons[libraries[0]], "memory", "PyTorch", "epoch", threads) for _ in range((turns + 1) // 2)]
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


def code(libraries: list, jobs: list) -> list:
    from rivals.jobs import code_of
    return [dict(library=library, job=job, code=text) for library in libraries
            for job, text in code_of(described(library)[0]).items() if job.rstrip("_23") in [*jobs, "shared"]]


def machine(part: str, threads: int, load: float) -> dict:
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy")}
    return dict(part=part, date=date.today().isoformat(), processor=processor, cores=os.cpu_count(), threads=threads,
                load_average=f"{load:.2f}", system=platform.system(), python=platform.python_version(), **versions)


def write(name: str, rows: list, replaced) -> None:
    "Put `rows` into a result file, in place of those that are `replaced`."
    path = results / name
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            old = [row for row in csv.DictReader(file) if not replaced(row)]
        rows = (describe(old) if name == "scoreboard.csv" else old) + rows
    order = ["verdicts", "times", *LIBRARIES]
    rows.sort(key=lambda row: (order.index(row.get("library", row.get("part"))), jobs_order(row.get("job", ""))))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def describe(rows: list) -> list:
    "What the files say of each way: its name, its documentation, and how many lines a user writes."
    from rivals.jobs import lines_of
    for row in rows:
        file, about, functions = described(row["library"])
        way, job = row["job"], row["job"].rstrip("_23")
        docs = about["DOCS"]
        row["way"], row["docs"] = about["WAYS"].get(way, ""), docs.get(way, docs.get(job, docs[""]))
        row["lines"] = lines_of(file, way) if way in functions else ""
    return rows


def jobs_order(way: str) -> tuple:
    job = way.rstrip("_23")
    return ["", "shared", *JOBS].index(job), way


def main() -> None:
    judged = [job for job in JOBS if job != "epoch"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["verdicts", "times"], help="one part; the other stays as it is")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="NAME",
                        help="of " + ", ".join(LIBRARIES))
    parser.add_argument("--jobs", nargs="+", choices=judged, default=judged, metavar="JOB", help="of " + ", ".join(judged))
    parser.add_argument("--turns", type=int, default=5, help="frozen epochs of each library and by hand")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
    build.mkdir(parents=True, exist_ok=True)
    pythons, refused = environments(arguments.libraries)
    make_materials(build / "materials.pt")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    given = arguments.libraries, pythons, refused, arguments.threads
    jobs = arguments.jobs * (arguments.only != "times") + ["epoch"] * (arguments.only != "verdicts")

    def ran(row):
        return row["library"] in arguments.libraries and row["job"].rstrip("_23") in [*jobs, "shared"]

    if arguments.only != "times":
        write("scoreboard.csv", verdicts(*given, arguments.jobs), ran)
        write("scoreboard_runs.csv", [machine("verdicts", arguments.threads, load)], lambda row: row["part"] == "verdicts")
    if arguments.only != "verdicts":
        write("scoreboard_times.csv", times(*given, arguments.turns), ran)
        write("scoreboard_runs.csv", [machine("times", arguments.threads, load)], lambda row: row["part"] == "times")
    write("scoreboard_code.csv", code(arguments.libraries, jobs), ran)


if __name__ == "__main__":
    main()
