"`make mutants`: it kills what is wrong, lets live what is not, ends what does not end, and changes no file."
import json
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[1]
SCRIPT = """
import json, sys, tempfile
import execnb.shell
sys.path.insert(0, "tools")
import mutants
mutants.TESTS["tables"] = ["01b_tables"]
notebooks = {"01b_tables": ("tables", mutants.read_notebook("01b_tables"))}
for changes, limit in json.load(sys.stdin):
    source = mutants.source_of("tables").decode()
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    with tempfile.TemporaryFile() as output:
        print(mutants.run_child("tables", source.encode(), notebooks, limit, output))
"""


def test_what_is_wrong_dies_and_nothing_is_written():
    before = {path: path.read_bytes() for path in [*root.glob("ft_tutorial/*.py"), *root.glob("nbs/01b*")]}
    wrong, endless = ('return "-"', 'return "?"'), ('if value is None:', 'while value is None: pass\n    if 0:')
    same = ('return "yes" if value else "no"', 'return "no" if not value else "yes"')
    given = [([], 60), ([wrong], 60), ([same], 60), ([endless], 2)]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], input=json.dumps(given), cwd=root, text=True,
                          capture_output=True)
    assert done.stdout.split("\n")[:-1] == ["survived", "killed", "survived", "out of time"], done
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.skipif(not (root / "build/mutmut").exists(), reason="make mutants, which installs mutmut, was never called here")
def test_mutants_have_names_that_outlive_an_edit(monkeypatch):
    import mutants

    whole = mutants.source_of("tables")
    found = mutants.all_mutants(["tables"])
    assert len({mutant.name for mutant in found}) == len(found) > 50
    for mutant in found:
        assert mutant.source() != whole and mutant.source()[:mutant.start] == whole[:mutant.start]
    changed = [mutant.before for mutant in found]
    assert "return \"-\"" in changed and not any(line.startswith(('"', "import", "from html")) for line in changed)
    edited = whole.replace(b'    return f"{value:.3g}"', b'    value = value\n    return f"{value:.3g}"')
    monkeypatch.setattr(mutants, "source_of", lambda module: edited)
    names = {mutant.name for mutant in mutants.all_mutants(["tables"])}
    assert names >= {mutant.name for mutant in found}
