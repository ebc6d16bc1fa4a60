"""Do the tests notice when the code is wrong? Change one place of a module, run its fast tests, repeat.

    python tools/mutants.py [--seed 0] [--count 80] [--only MODULE] [--list] [--replay NAME ...]

The changes are mutmut's, and a few of our own. Its runner, and cosmic-ray's, change files and start a new process with
torch for each mutant, and know nothing of notebooks, whose cells are tests here. So instead one warm process, which has
torch, fastai and pytest loaded, forks a child for each mutant. The child imports the changed module from memory, runs
the cells of its notebook and a fast part of tests/, and ends at the first failure. No file is changed. A cell fails as
in `make test`: when it raises, or prints another text than is saved.

A mutant that no test notices survives. Either a test is missing, or the change makes no difference worth one; then
tests/mutants.csv says why. Both kinds count against the rate. The exit code is 0 when every survivor has a reason and
at least 85 % are killed in each of freezing, finetuning and terms.
"""
import argparse
import ast
import csv
import hashlib
import importlib.util
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked safely
root = Path(__file__).parents[1]
package = "ft_tutorial"
REASONS = root / "tests/mutants.csv"
MUTMUT = ["mutmut==3.8.1", "libcst==1.9.0"]  # its operators are no public interface: exactly this one
LEAST = 0.85
MUST = ("freezing", "finetuning", "terms")
WEIGHTS = {"arg_removal": 6, "assignment": 3, "number": 2}  # how much rarer than others: there are so many of these

FAMILIES = {
    "freezing": ["tables", "selecting", "states", "changing", "freezing"],
    "finetuning": ["plans", "cutting", "caching", "checkpoints", "finetuning"],
    "terms": ["rules", "verdicts", "glossary", "flips", "exhibits"],
    "movement": ["matching", "differences", "changes", "movement"],
    "naming": ["evidence", "reporting", "naming"],
}
TESTS = {  # what may notice a change in a module: notebooks of nbs/ and files of tests/, the fast and likely first
    "tables": ["01b_tables", "02b_states", "test_movement", "test_freezing"],
    "selecting": ["02a_selecting", "02b_states", "02c_changing", "test_freezing", "test_freezing_random"],
    "states": ["02b_states", "02c_changing", "test_freezing", "test_freezing_random"],
    "changing": ["02c_changing", "02b_states", "test_freezing", "test_freezing_random"],
    "freezing": ["test_freezing", "test_freezing_random"],
    "plans": ["04a_plans", "test_finetuning"],
    "cutting": ["04d_cutting", "04b_caching", "test_caching"],
    "caching": ["04b_caching", "test_caching", "test_finetuning"],
    "checkpoints": ["04c_checkpoints", "test_checkpoints", "test_finetuning"],
    "finetuning": ["test_finetuning", "test_checkpoints"],
    "rules": ["00b_rules", "00c_verdicts", "test_terms", "ja/terms", "00g_flips"],
    "verdicts": ["00c_verdicts", "00e_exhibits", "ja/terms", "test_terms"],
    "glossary": ["00d_glossary", "ja/terms", "test_terms"],
    "flips": ["00g_flips", "ja/terms", "test_terms"],
    "exhibits": ["00e_exhibits", "ja/terms", "test_terms"],
    "matching": ["03a_matching", "test_movement"],
    "differences": ["03b_differences", "03c_changes", "test_movement"],
    "changes": ["03c_changes", "test_movement"],
    "movement": ["test_movement", "03_movement"],
    "evidence": ["05a_evidence", "test_naming"],
    "reporting": ["05b_reporting", "test_naming"],
    "naming": ["test_naming"],
}
# These start other processes, which would import the module from its file, or take long.
NOT_FAST = " or ".join(["two_processes", "test_killed", "the_example", "after_a_kill", "import_is_fast", "import_is_light",
                        "installed_command", "runs_no_code", "settled_is_what"])
WARM = ("numpy pandas torch torch._dynamo torchvision timm accelerate peft fastai.vision.all fastai.text.all "
        "matplotlib.pyplot hypothesis pytest execnb.shell nbdev.test nbformat").split()


# --- the changes -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Mutant:
    "One changed place; its name depends on what is changed, and not on where it stands."
    module: str
    function: str
    operator: str
    start: int
    end: int
    text: str
    before: str  # the changed lines
    after: str
    number: int  # among equal changes of one function

    @property
    def name(self) -> str:
        what = "\n".join([self.operator, self.before, self.after, str(self.number)])
        return f"{self.module}.{self.function}:{hashlib.sha256(what.encode()).hexdigest()[:6]}"

    def source(self) -> bytes:
        whole = source_of(self.module)
        return whole[:self.start] + self.text.encode() + whole[self.end:]

    def difference(self) -> str:
        return "\n".join([f"- {line}" for line in self.before.split("\n")] + [f"+ {line}" for line in self.after.split("\n")])


def source_of(module: str) -> bytes:
    return (root / package / f"{module}.py").read_bytes()


def load_mutmut():
    "mutmut's operators, installed apart from the project's own environment when they are not there."
    folder = root / "build" / "mutmut"
    if not (folder / "mutmut").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *MUTMUT], check=True)
    sys.path.append(str(folder))
    from mutmut.mutation.mutators import mutation_operators
    return mutation_operators


def own_operators() -> list:
    "What mutmut leaves out: statements, guards and conditions that are gone, results that are nothing."
    import libcst as cst

    swaps = {"any": "all", "all": "any", "min": "max", "max": "min"}
    nothing, no, yes = cst.Name("None"), cst.Name("False"), cst.Name("True")

    def remove_statement(node):
        if isinstance(node, cst.Assign) and isinstance(node.targets[0].target, cst.Name):
            return
        if not (isinstance(node, cst.Expr) and isinstance(node.value, (cst.BaseString, cst.Yield))):
            yield cst.Pass()

    def return_none(node):
        if node.value is not None and not node.value.deep_equals(nothing):
            yield node.with_changes(value=nothing, whitespace_after_return=cst.SimpleWhitespace(" "))

    def skip_block(node):
        lines = node.body.body
        simple = len(lines) == 1 and isinstance(lines[0], cst.SimpleStatementLine)
        only_raises = simple and isinstance(lines[0].body[0], cst.Raise)
        if not only_raises:  # else the same as without the raise
            yield node.test, no

    def every_item(node):
        yield node.test, yes

    def swap_function(node):
        if isinstance(node.func, cst.Name) and node.func.value in swaps:
            yield node.func, cst.Name(swaps[node.func.value])

    return [((cst.Expr, cst.AugAssign, cst.Assign, cst.Del, cst.Raise), remove_statement), (cst.Return, return_none),
            (cst.If, skip_block), (cst.CompIf, every_item), (cst.Call, swap_function)]


def left_out(cst, node, parent) -> bool:
    "Annotations, docstrings, the words of errors, imports, and what only a type checker reads."
    names = [target.target.value for target in getattr(node, "targets", []) if isinstance(target.target, cst.Name)]
    return (isinstance(node, (cst.Annotation, cst.Import, cst.ImportFrom)) or isinstance(parent, cst.Raise)
            or "Selector" in names
            or isinstance(node, cst.Expr) and isinstance(node.value, cst.BaseString)
            or isinstance(node, cst.If) and getattr(node.test, "value", None) == "TYPE_CHECKING"
            or bool({"__all__", "_all_"} & {*names}))


def is_key(cst, path: tuple) -> bool:
    "Is the string at the end of this path compared or looked up, and not merely shown?"
    *_, parent, node = path
    if isinstance(parent, cst.Arg):
        call = path[-3]
        name = getattr(getattr(call.func, "attr", call.func), "value", None)
        keys = {"getattr": 1, "hasattr": 1, "get": 0, "pop": 0, "setdefault": 0}
        return name in keys and call.args.index(parent) == keys[name]
    if isinstance(parent, cst.Element):  # of a tuple, in a comparison
        return isinstance(path[-4], (cst.ComparisonTarget, cst.Comparison))
    return (isinstance(parent, (cst.Comparison, cst.ComparisonTarget, cst.Index, cst.Param))
            or isinstance(parent, cst.DictElement) and parent.key is node)


def mutants_of(module: str, operators: list) -> list[Mutant]:
    "All mutants of a module, in the order of its lines."
    import libcst as cst
    from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper

    whole = source_of(module)
    tree = MetadataWrapper(cst.parse_module(whole))
    spans, seen, found = tree.resolve(ByteSpanPositionProvider), Counter(), []

    def visit(node, path: tuple, names: tuple) -> None:
        if path and left_out(cst, node, path[-1]):
            return
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            names += (node.name.value,)
        for kind, make in operators:
            if not isinstance(node, kind):
                continue
            made = list(make(node))
            if isinstance(node, cst.BaseString):  # one change of a string is enough
                made = made[:1] if is_key(cst, (*path, node)) else []
            for new in made:
                old, new = new if isinstance(new, tuple) else (node, new)
                add(old, new, names, make.__name__.removeprefix("operator_"))
        for child in node.children:
            visit(child, (*path, node), names)

    def add(old, new, names: tuple, operator: str) -> None:
        span = spans[old]
        start, end = span.start, span.start + span.length
        text = tree.module.code_for_node(new).strip()
        first, last = whole.rfind(b"\n", 0, start) + 1, whole.find(b"\n", end)
        before = whole[first:last].decode()
        after = (whole[first:start] + text.encode() + whole[end:last]).decode()
        place = (".".join(names) or "module", operator, before.strip(), after.strip())
        seen[place] += 1
        found.append(Mutant(module, place[0], operator, start, end, text, *place[2:], seen[place]))

    visit(tree.module, (), ())
    return found


def is_change(mutant: Mutant) -> bool:
    "Does Python read it, and as something else than before?"
    with suppress(SyntaxError):
        return ast.dump(ast.parse(mutant.source())) != ast.dump(ast.parse(source_of(mutant.module)))
    return False


def all_mutants(modules: list) -> list[Mutant]:
    operators = [*load_mutmut(), *own_operators()]
    return [mutant for module in modules for mutant in mutants_of(module, operators)]


def sample(modules: list, seed: int, count: int) -> list[Mutant]:
    "A weighted sample in the order of the lines. A mutant's luck is its own, so most of a sample outlives an edit."
    def luck(mutant: Mutant) -> float:
        number = int.from_bytes(hashlib.sha256(f"{seed} {mutant.name}".encode()).digest()[:6]) + 1
        return math.log(number / 2**48) * WEIGHTS.get(mutant.operator, 1)

    ranked = sorted(all_mutants(modules), key=luck, reverse=True)
    chosen = itertools.islice(filter(is_change, ranked), count)
    return sorted(chosen, key=lambda mutant: (modules.index(mutant.module), mutant.start))


# --- the tests ---------------------------------------------------------------------------------------------

class Served(MetaPathFinder, InspectLoader):
    "Gives one module of the package from memory."
    def __init__(self, module: str, source: bytes):
        self.name, self.source = f"{package}.{module}", source
        self.path = str(root / package / f"{module}.py")

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            spec = importlib.util.spec_from_loader(name, self, origin=self.path)
            spec.has_location = True
            return spec

    def get_source(self, name): return self.source.decode()
    def get_code(self, name): return compile(self.source, self.path, "exec")
    def get_filename(self, name): return self.path


def read_notebook(stem: str) -> list[tuple]:
    "(id, source, printed text) of the cells that test: those that are not exported."
    import nbformat
    from nbdev.test import nb_test_cells
    from run_notebooks import text_of

    path = root / "nbs" / f"{stem}.ipynb"
    saved = {cell.id: text_of(cell.get("outputs", [])) for cell in nbformat.read(path, as_version=4).cells}
    return [(cell.id, cell.source, saved[cell.id]) for cell in nb_test_cells(path)
            if not {"export", "exporti", "exports", "default_exp"} & {*cell.directives_}]


def run_notebook(stem: str, module: str, cells: list[tuple]) -> bool:
    "Do all cells pass, in the namespace of the module that the notebook exports, if it exports one?"
    from execnb.shell import CaptureShell
    from run_notebooks import text_of

    os.chdir((root / "nbs" / stem).parent)
    shell = CaptureShell()
    if module:
        shell.user_module = importlib.import_module(f"{package}.{module}")
        shell.user_ns = vars(shell.user_module)
        shell.init_user_ns()
    for id, source, saved in cells:
        printed = shell.run(source)
        if shell.exc:
            print(f"FAILED nbs/{stem}.ipynb cell {id}: {type(shell.exc).__name__}: {shell.exc}")
            return False
        if text_of(printed) != saved:
            print(f"FAILED nbs/{stem}.ipynb cell {id} printed\n{text_of(printed)}\ninstead of\n{saved}")
            return False
    return True


class Cases:
    "A pytest plugin: of a test with many parameters the first, the middle and the last case, or only the others."
    def __init__(self, others: bool):
        self.others = others

    def pytest_collection_modifyitems(self, items):
        cases = {}
        for item in items:
            cases.setdefault(getattr(item, "originalname", item.name), []).append(item)
        few = {id(same[i]) for same in cases.values() for i in (0, len(same) // 2, -1)}
        items[:] = [item for item in items if (id(item) in few) != self.others]


def run_file(name: str, others: bool) -> bool:
    "Do the tests of a file pass, or those of their cases that a first run left out?"
    import pytest

    os.chdir(root)
    code = pytest.main(["-x", "-q", "--no-header", "--tb=short", "-W", "ignore", "-p", "no:cacheprovider", "-k",
                        f"not ({NOT_FAST})", f"tests/{name}.py"], plugins=[Cases(others)])
    return code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def run_tests(tests: list[str], notebooks: dict) -> bool:
    "Do all tests pass? Ends at the first that fails."
    files = [test for test in tests if test not in notebooks]
    for test, others in [*((test, False) for test in tests), *((test, True) for test in files)]:
        start = time.time()
        passed = run_notebook(test, *notebooks[test]) if test in notebooks else run_file(test, others)
        print(f"{test}{', other cases' * others}: {'passed' if passed else 'failed'} in {time.time() - start:.1f} s", flush=True)
        if not passed:
            return False
    return True


def run_child(module: str, source: bytes, notebooks: dict, limit: int, output) -> str:
    "Fork, and run the tests of `module` with this source: survived, killed, or out of time."
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
            signal.alarm(limit)
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            sys.meta_path.insert(0, Served(module, source))
            code = not run_tests(TESTS[module], notebooks)
        except BaseException as error:
            print(f"FAILED: {type(error).__name__}: {error}", flush=True)
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, state = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests left behind
    if os.WIFSIGNALED(state) and os.WTERMSIG(state) == signal.SIGALRM:
        return "out of time"
    return "killed" if os.WIFSIGNALED(state) or os.WEXITSTATUS(state) else "survived"


class Bench:
    "A warm process that tries mutants; made after a check that the tests pass without one."
    def __init__(self):
        from hypothesis import Phase, settings

        sys.path.insert(0, str(root / "tools"))
        os.environ["PYTHONWARNINGS"] = "ignore"
        for name in WARM:
            importlib.import_module(name)
        settings.register_profile("mutants", derandomize=True, database=None, deadline=None, print_blob=False,
                                  phases=[Phase.explicit, Phase.generate])  # a first failure is enough, however long
        settings.load_profile("mutants")
        assert not any(name.split(".")[0] == package for name in sys.modules), "a child could not import it anew"
        self.notebooks, self.limits = {}, {}

    def _read(self, module: str) -> None:
        for test in TESTS[module]:
            if not test.startswith("test_") and test not in self.notebooks:
                text = (root / "nbs" / f"{test}.ipynb").read_text(encoding="utf-8")
                exports = "".join(re.findall(r"#\| default_exp (\w+)", text))
                self.notebooks[test] = exports, read_notebook(test)

    def try_out(self, module: str, source: bytes, show: bool = False) -> str:
        with tempfile.TemporaryFile() as output:
            how = run_child(module, source, self.notebooks, self.limits.get(module, 600), output)
            output.seek(0)
            self.output = output.read().decode(errors="replace")
        if show:
            print(self.output)
        return how

    def control(self, module: str) -> None:
        "The module as it is passes, and without its functions it does not."
        self._read(module)
        whole, start = source_of(module), time.time()
        how = self.try_out(module, whole)
        if how != "survived":
            raise SystemExit(f"FAILED: the tests of {module}, which nobody changed: {how}\n{self.output}")
        took = time.time() - start
        self.limits[module] = int(3 * took) + 10
        names = [node.name for node in ast.parse(whole).body if isinstance(node, ast.FunctionDef)]
        if self.try_out(module, whole + f"\n{' = '.join(names)} = None\n".encode()) == "survived":
            raise SystemExit(f"FAILED: the tests of {module} pass without its functions")
        print(f"control: {module} passes in {took:.0f} s, and fails without its functions", flush=True)


# --- the report --------------------------------------------------------------------------------------------

def read_reasons() -> dict:
    if not REASONS.exists():
        return {}
    with REASONS.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def report(results: dict, families: dict) -> bool:
    "Print survivors, reasons and rates; is all well?"
    reasons, well = read_reasons(), True
    survivors = [mutant for mutant, how in results.items() if how == "survived"]
    for mutant in survivors:
        reason = reasons.get(mutant.name, "NO REASON GIVEN in tests/mutants.csv")
        print(f"\n{mutant.name} ({mutant.operator})\n{mutant.difference()}\n  {reason}")
        well &= mutant.name in reasons
    print("\nfamily      mutants  killed  by time  survived  rate")
    for family, modules in families.items():
        how = Counter(how for mutant, how in results.items() if mutant.module in modules)
        dead = how["killed"] + how["out of time"]
        rate = dead / how.total()
        print(f"{family:10}  {how.total():7}  {dead:6}  {how['out of time']:7}  {how['survived']:8}  {rate:.1%}")
        well &= rate >= LEAST or family not in MUST
    unused = [mutant.name for mutant, how in results.items() if how != "survived" and mutant.name in reasons]
    if unused:
        print("tests/mutants.csv has a reason for what is killed now: " + ", ".join(unused))
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--count", type=int, default=80, help="mutants of each family")
    parser.add_argument("--only", metavar="MODULE", help="of one module or family")
    parser.add_argument("--replay", metavar="NAME", nargs="+", help="run these mutants alone, and show the tests' output")
    parser.add_argument("--list", action="store_true", help="show the sample, run nothing")
    given = parser.parse_args()
    families = {family: [module for module in modules if given.only in (None, family, module)]
                for family, modules in FAMILIES.items()}
    families = {family: modules for family, modules in families.items() if modules}
    if given.replay:
        modules = {name.partition(".")[0] for name in given.replay} & {*TESTS}
        mutants = [mutant for mutant in all_mutants([*modules]) if mutant.name in given.replay]
    else:
        mutants = [mutant for modules in families.values() for mutant in sample(modules, given.seed, given.count)]
    if given.list or not mutants:
        print("\n".join(f"{mutant.name} ({mutant.operator})\n{mutant.difference()}" for mutant in mutants) or "no such mutant")
        return not mutants
    bench, results, start = Bench(), {}, time.time()
    for module in dict.fromkeys(mutant.module for mutant in mutants):
        bench.control(module)
    for mutant in mutants:
        begun = time.time()
        if given.replay:
            print(f"{mutant.name} ({mutant.operator})\n{mutant.difference()}")
        how = results[mutant] = bench.try_out(mutant.module, mutant.source(), show=bool(given.replay))
        by = "".join(re.findall(r"^(.+): failed in", bench.output, re.M))
        print(f"{how:11} {time.time() - begun:5.1f} s  {mutant.name}  {by}" + f"\n{mutant.difference()}" * (how == "survived"),
              flush=True)
    if given.replay:
        return 0
    well = report(results, families)
    print(f"{len(results)} mutants in {(time.time() - start) / 60:.0f} minutes")
    return not well


if __name__ == "__main__":
    sys.exit(main())
