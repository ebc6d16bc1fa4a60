"""The words: rules on every possible run, tables without a blemish, and the Japanese page beside the English one.

After a look at the Japanese page:  python tests/test_terms.py --looked-at
"""
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft_tutorial import rules
from ft_tutorial.glossary import _key
from ft_tutorial.terms import (CASES, GLOSSARY, PROPERTIES, SCHOOLS, SOURCES, VALUES, Quiz, Run, Table, Term, Verdicts,
                               case_table, every_run, look_up, matrix, name_run, property_table, quotes, settled, timeline,
                               two_by_two, what_if)

root = Path(__file__).parents[1]
data = root / "ft_tutorial" / "data" / "terms"
runs = list(every_run())


# The rules once more, in other words and with none of the code that is tested.

def llm_name(run):
    if run.inherited == "none" or run.update != "gradient" or (run.moved, run.added) == ("none", "none"):
        return None
    if run.same_run:
        return "resumed training"
    if run.moved == "none":
        return "parameter-efficient fine-tuning" if run.added == "inside" else "probe"
    if run.objective_same and not run.labelled:
        return "continued pretraining"
    if run.objective_same and run.task_same and run.data != "new":
        return "more training"
    if not run.labelled:
        return "post-training"
    return "partial fine-tuning" if run.moved == "some" else "full fine-tuning"


def second_statement(run):
    trained = run.inherited in ("some", "all")
    learning = run.update == "gradient"
    moving = trained and learning and run.moved != "none"
    still = trained and learning and run.moved == "none"
    further = moving or (still and run.added != "none")
    answers_change = moving or (still and run.added == "inside")
    setting_new = not (run.task_same and run.domain_same)
    all_move = moving and run.moved == "all"
    plain = further and not run.task_same and run.data in ("more", "new")
    gentle_last = run.after_frozen and run.small_step
    llm = llm_name(run)
    return {
        "plain": (further, plain),
        "plain_strict": (answers_change, plain),
        "two_phase": (moving and gentle_last and run.data == "new",
                      still and run.added in ("head", "outside") and run.data == "new"),
        "umbrella": (answers_change and setting_new, further and setting_new),
        "exam": (moving, still and run.added != "none"),
        "inverse": (still and run.added == "head", further and setting_new),
        "bert_era": (all_move and not run.task_same and run.labelled, further and not run.task_same),
        "llm_era": (llm in ("parameter-efficient fine-tuning", "post-training", "partial fine-tuning",
                            "full fine-tuning"), None),
        "origins": (all_move and not run.objective_same,
                    None if run.carrier == "joint" else run.carrier != "none" and setting_new),
    }


def test_rules_on_every_possible_run():
    assert len(runs) == 44_160
    for run in runs:
        for school, (fine, transfer) in second_statement(run).items():
            got = (rules._llm_era(run) if school == "llm_era" else rules._fine_tuning[school](run))[0]
            assert (got, rules._transfer_learning[school](run)[0]) == (fine, transfer), (school, run)
        assert rules._llm_era(run)[2] == llm_name(run), run


def test_verdicts_are_the_rules():
    for run in runs[::97]:
        verdicts, expected = name_run(run), second_statement(run)
        assert list(verdicts) == list(expected) == list(SCHOOLS)
        assert {id: (v.fine_tuning, v.transfer_learning) for id, v in verdicts.items()} == expected
        for word, column in (("fine_tuning", 0), ("transfer_learning", 1)):
            said = {answers[column] for answers in expected.values()} - {None}
            assert verdicts.agree.get(word) == (said.pop() if len(said) == 1 else None)
        for verdict in verdicts.values():
            assert verdict.why.startswith("Fine-tuning: ") and verdict.why.endswith(").")
            assert "ファインチューニング" in verdict.why_ja and verdict.why_ja.endswith("。")
            assert "None" not in verdict.why and verdict.sources == SCHOOLS[verdict.school.id].sources


def test_the_reason_names_facts_that_decide():
    "Keep the named facts and change any others: the verdict stays."
    for run in runs[::2003]:
        for school in SCHOOLS:
            if school == "llm_era":
                continue
            holds, facts = rules._fine_tuning[school](run)
            alike = [other for other in runs[::29] if all(getattr(other, f) == getattr(run, f) for f in facts)]
            assert {rules._fine_tuning[school](other)[0] for other in alike} <= {holds}, (school, facts)


def test_every_fact_matters():
    facts = {fact for run in runs[::601] for change in what_if(run).changes if change.flips
             for fact in (change.fact, *change.also)}
    assert facts == set(VALUES)


def test_what_if_tells_the_truth():
    for run in runs[::997]:
        before = name_run(run)
        for change in what_if(run).changes:
            after = name_run(change.run)
            assert getattr(change.run, change.fact) == change.value
            flips = {(s, w, getattr(before[s], w), getattr(after[s], w)) for s in SCHOOLS
                     for w in ("fine_tuning", "transfer_learning")}
            assert {flip for flip in flips if flip[2] != flip[3]} == set(change.flips)


def test_settled_is_what_all_fitting_runs_agree_on():
    sample = [dict(moved="none"), dict(carrier="none"), dict(task_same=False, added="head", moved="all"),
              dict(carrier="joint"), dict(update="none"), dict(same_run=True, labelled=False)]
    for facts in sample:
        fitting = [second_statement(run) for run in runs if all(getattr(run, k) == v for k, v in facts.items())]
        agreed = tuple(id for id in SCHOOLS if len({statement[id] for statement in fitting}) == 1)
        assert settled(**facts) == agreed
    assert settled() == () and settled(carrier="none") != ()  # nothing said, nothing settled; a control
    for facts in (dict(frozen=True), dict(moved="most")):
        with pytest.raises((TypeError, ValueError)):
            settled(**facts)


# y yes, n no, - no verdict: fine-tuning and transfer learning, one pair for each school; the LLM era's name.
worked_cases = """
more-epochs         yn yn nn nn yn nn nn n- nn more training
cool-down           yn yn nn nn yn nn nn n- nn more training
linear-probe        yy ny ny ny ny yy ny n- ny probe
cached-features     yy ny ny ny ny ny ny n- ny probe
k-nn                nn nn nn nn nn nn nn n- ny None
zero-shot           nn nn nn nn nn nn nn n- ny None
new-head-all        yy yy nn yy yn ny yy y- ny full fine-tuning
head-then-all       yy yy yn yy yn ny yy y- ny full fine-tuning
both-phases         yy yy nn yy yn ny yy y- ny full fine-tuning
top-blocks          yy yy yn yy yn ny ny y- ny partial fine-tuning
gradual-unfreezing  yy yy yn yy yn ny yy y- yy full fine-tuning
first-layers-copied yy yy nn yy yn ny yy y- ny full fine-tuning
domain-shift        yn yn nn yy yn ny nn y- ny full fine-tuning
surgical-shift      yn yn nn yy yn ny nn y- ny partial fine-tuning
last-layer          yn yn nn nn yn nn nn y- nn partial fine-tuning
dapt                yn yn nn yy yn ny nn n- ny continued pretraining
instruction-tuning  yy yy nn yy yn ny yy y- yy full fine-tuning
lora                yy yy nn yy ny ny ny y- ny parameter-efficient fine-tuning
lora-merged         yy yy nn yy yn ny ny y- ny partial fine-tuning
in-context          nn nn nn nn nn nn nn n- ny None
distillation        nn nn nn nn nn nn nn n- nn None
word-vectors        yy yy nn yy yn ny yy y- yy full fine-tuning
joint-multitask     nn nn nn nn nn nn nn n- n- None
deep-belief-net     yn yn nn yy yn ny yy y- yy full fine-tuning
autoencoder-2006    yn yn nn nn yn nn nn y- yn post-training
swa-tail            yn yn nn nn yn nn nn n- nn resumed training
resumed             yn yn nn nn yn nn nn n- nn resumed training
more-data           yn yn nn nn yn nn nn n- nn more training
prune-retrain       yn yn nn nn yn nn nn n- nn more training
adabn               nn nn nn nn nn nn nn n- ny None
higher-resolution   yn yn nn yy yn ny nn n- ny more training
more-trees          yn nn nn nn ny nn nn n- nn probe
random-features     nn nn nn nn nn nn nn n- nn None
from-scratch        nn nn nn nn nn nn nn n- nn None
hyperparameters     nn nn nn nn nn nn nn n- nn None
"""


def test_worked_cases():
    letter = {True: "y", False: "n", None: "-"}
    expected = {line.split()[0]: line.split(None, 10) for line in worked_cases.strip().splitlines()}
    assert set(expected) == set(CASES) and len(CASES) >= 28
    for id, case in CASES.items():
        verdicts = name_run(case.run)
        pairs = [letter[v.fine_tuning] + letter[v.transfer_learning] for v in verdicts.values()]
        assert [id, *pairs, str(verdicts["llm_era"].name)] == expected[id]


def test_a_function_keeps_its_name_under_plain_when_it_is_stored_otherwise():
    for one, other in (("linear-probe", "cached-features"), ("lora", "lora-merged")):
        for school in ("plain", "plain_strict"):
            a, b = (name_run(CASES[case].run)[school] for case in (one, other))
            assert (a.fine_tuning, a.transfer_learning) == (b.fine_tuning, b.transfer_learning)


def test_bad_input_says_what_to_do():
    for facts, error, message in (
            (dict(carrier="none"), ValueError, "set inherited='none' and moved='none'"),
            (dict(inherited="none", moved="none"), ValueError, "carrier='parameters' needs"),
            (dict(update="none"), ValueError, "set moved='none'"),
            (dict(data="old"), ValueError, "('same', 'more', 'new')"),
            (dict(task_same="no"), TypeError, "bool"),
            (dict(moved=None), TypeError, "str")):
        with pytest.raises(error) as caught:
            Run(**facts)
        assert message in str(caught.value)
    for call, error in ((lambda: name_run({}), TypeError), (lambda: name_run(Run(), lang="fr"), ValueError),
                        (lambda: look_up(3), TypeError), (lambda: what_if("x"), TypeError)):
        with pytest.raises(error):
            call()
    with pytest.raises(AttributeError):
        Run().moved = "none"


def test_tables_show_themselves():
    for lang in ("en", "ja"):
        verdicts = name_run(CASES["lora"].run, lang=lang)
        text = repr(verdicts)
        assert all(len(line) <= 100 for line in text.splitlines()) and len(text.splitlines()) > 10
        html = verdicts._repr_html_()  # the verdicts, and below them the reasons
        assert html.count("<tr>") == 2 * verdicts.to_markdown().count("\n| ") == 20
        verdict_rows, reasons = html.split("<details")
        assert verdict_rows.count("</th>") == 3 and reasons.count("</th>") == 2
        assert f'lang="{lang}"' in verdicts._repr_html_()
    assert list(name_run(Run()).to_frame().index) == list(SCHOOLS)


def test_cells_of_several_lines():
    table = Table(["a", "b"], [["one\ntwo", "see https://example.org/x?y=<z> here | there"]])
    assert repr(table).splitlines()[2:] == ["one  see https://example.org/x?y=<z> here | there", "two"]
    assert "one<br>two" in table._repr_html_() and ">example.org</a> here" in table._repr_html_()
    assert "<z>" not in table._repr_html_()
    assert "set <code>x=1</code>" in Table(["a", "b"], [["c", "set `x=1`"]])._repr_html_()
    assert "| one<br>two | see [example.org](https://example.org/x?y=<z>) here \\| there |" in table.to_markdown()


def test_reasons_and_other_changes_are_folded_not_lost():
    run = CASES["linear-probe"].run
    verdicts, some, every = name_run(run), what_if(run, facts=("moved",)), what_if(run)
    assert verdicts._repr_html_().count("<details") == 1
    assert all(verdict.why in verdicts._repr_html_() for verdict in verdicts.values())
    assert len(some.rows) < len(every.rows) == len(some.rows) + len(some.rest.rows)
    assert some.changes == every.changes and "<details" in some._repr_html_() and "<details" not in every._repr_html_()
    with pytest.raises(ValueError, match="no fact 'frozen'"):
        what_if(run, facts=("frozen",))


def test_japanese_tables_are_japanese():
    tables = [quotes("bert", lang="ja"), two_by_two("ja"), matrix("ja"), timeline("ja"), name_run(Run(), lang="ja"),
              what_if(Run(), lang="ja"), Quiz("lora", lang="ja")]
    for table in tables:
        assert 'lang="ja"' in table._repr_html_() and 'lang="en"' not in table._repr_html_()
    quiz = Quiz("lora", "random-features", lang="ja")._repr_html_()
    assert quiz.count("「言葉どおり」の答え：") == 2 and quiz.count("◆") == 1
    polite = re.compile(r"(です|ます|せん|でしょう|でした|ました)。")
    for case in CASES.values():
        assert all(polite.search(part + "。") for part in re.sub("（[^）]*）|「[^」]*」", "", case.point_ja).split("。") if part), case.id
    for name in ("schools.csv", "values.csv", "timeline.csv"):  # cells of tables end without a copula
        assert not re.search("(である|です|ます)[。,]", (data / name).read_text(encoding="utf-8")), name


def test_english_tables_have_no_japanese_words():
    kana = re.compile("[ぁ-ヶ]")
    tables = [property_table, matrix, timeline, two_by_two, lambda lang: case_table("lora", "random-features", lang=lang),
              lambda lang: what_if(Run(), facts=("moved",), lang=lang), lambda lang: Quiz("lora", lang=lang)]
    for table in tables:
        assert not kana.search(table(lang="en")._repr_html_()) and kana.search(table(lang="ja")._repr_html_())
    folded = [what_if(Run(), facts=("moved",), lang=lang)._repr_html_() for lang in ("en", "ja")]
    assert "<summary>any other fact changed" in folded[0] and "<summary>ほかの項目を変えると" in folded[1]
    assert Verdicts(Run())._repr_html_() == name_run(Run())._repr_html_()


def test_marks_can_be_read():
    "White on the dark one; a table of marks has upright, narrow headings; words of a Japanese table are not broken."
    cells = re.findall(r"<td[^>]*>[■○×]</td>", matrix()._repr_html_())
    assert {("■" in cell, "color:#fff" in cell) for cell in cells} == {(True, True), (False, False)}
    assert "vertical-rl" in matrix()._repr_html_() and "vertical-rl" not in timeline()._repr_html_()
    assert "word-break:normal" in timeline("ja")._repr_html_() and "word-break" not in timeline()._repr_html_()


def test_terms_show_all_they_have():
    for term in GLOSSARY.values():
        assert all(line.strip() and line.strip() != "also:" for line in repr(term).split("\n"))
        html = term._repr_html_()
        for text in (term.en, term.ja, term.meaning, term.meaning_ja, *term.synonyms, *term.synonyms_ja, term.beware):
            assert text in repr(term) and escape(text.replace("`", "")) in re.sub("</?code>", "", html), (term.id, text)
        assert html.count("<tr>") == 2 + bool(term.synonyms + term.synonyms_ja) + bool(term.beware + term.beware_ja)


def test_to_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        name_run(Run()).to_frame()


# The tables.

def rows(name):
    with open(data / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", sorted(path.name for path in data.glob("*.csv")))
def test_csv_is_clean(name):
    raw = (data / name).read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf") and b"\r" not in raw and raw.endswith(b"\n")
    table = rows(name)
    keys = list(table[0])
    for row in table:
        assert None not in row and list(row) == keys, row
        assert all(value == value.strip() for value in row.values()), row
    unique = [tuple(row.values())[:2] if name in ("values.csv", "timeline.csv") else row[keys[0]] for row in table]
    if name != "timeline.csv":
        assert len(set(unique)) == len(unique)
    assert len({tuple(row.values()) for row in table}) == len(table)


def test_sources():
    assert len(SOURCES) >= 40 and sum(source.year is not None for source in SOURCES.values()) >= 40
    assert len({source.quote for source in SOURCES.values()}) == len(SOURCES)
    for source in SOURCES.values():
        where = urlsplit(source.address)
        assert where.scheme in ("http", "https") and "." in where.netloc and source.address.isascii(), source.id
        assert " " not in source.address
        assert source.seen, source.id
        undated = re.search(r"undated \(seen 20\d\d\)$", source.seen)  # the reason why there is no year
        assert (source.year is None) == bool(undated), f"{source.id}: give a year, or 'undated (seen YYYY)' in seen"
        assert source.language in ("en", "ja") and source.quote
        assert len(source.quote.split()) <= 30 and len(source.quote) <= 240, source.id
        assert source.year is None or 1970 <= source.year <= 2026
        assert source.about in ("fine-tuning", "transfer learning", "both", "neither")
        assert bool(source.asks) == (source.about in ("fine-tuning", "both")), source.id
        assert set(source.asks) <= set(PROPERTIES) and set(source.asks.values()) <= {"req", "ok", "not"}
        assert bool(source.transfer) == bool(source.transfer_ja) == (source.about != "fine-tuning"), source.id


def test_every_quotation_is_translated_into_the_other_language():
    kana = re.compile("[ぁ-ヶ]")
    for source in SOURCES.values():
        assert bool(kana.search(source.quote)) == (source.language == "ja"), source.id
        translated = re.sub("微調整|転移学習|ファインチューニング", "", source.translation) if source.language == "ja" else source.translation
        assert bool(kana.search(translated)) == (source.language == "en"), source.id
        for lang in ("en", "ja"):
            table = quotes(source.id, lang=lang)
            assert source.quote in repr(table.rows) and source.address in table.rows[0][1]
            assert (source.translation in table.rows[0][1]) == (source.language != lang)


def test_no_row_is_from_memory():
    "Wording that nobody looked up is not printed: every row says where it was read."
    for name in ("sources.csv", "glossary.csv"):
        for row in rows(name):
            assert row["seen"] and not re.search(r"\b(memory|recalled|todo|unverified)\b", row["seen"], re.I), row["id"]
    for name in (path.name for path in data.glob("*.csv")):
        assert not re.search(r"\bMEMORY\b", (data / name).read_text(encoding="utf-8")), name


def test_every_code_is_explained():
    assert all(row["name"] and row["name_ja"] and row["question"].endswith("?") for row in PROPERTIES.values())
    drawn = (root / "nbs" / "00h_figures.ipynb").read_text(encoding="utf-8")
    for answer in ("asked for", "left open", "used without it"):  # the legend of req, ok, not
        assert answer in drawn
    for school in SCHOOLS.values():
        assert school.letter and school.meaning.endswith(".") and school.meaning_ja.endswith("。")
        assert school.fine_tuning and school.transfer_learning and school.fine_tuning_ja and school.transfer_learning_ja


def test_only_the_trained_start_is_asked_for_by_all():
    using = [source for source in SOURCES.values() if source.asks]
    assert "".join(PROPERTIES) == "PDTHFALYZ"
    for code in PROPERTIES:
        said = [source.asks.get(code) for source in using]
        assert (set(said) == {"req"}) == (code == "P")
        assert code == "P" or ("req" in said and {"ok", "not"} & set(said))


def test_every_table_points_to_known_sources():
    for name, columns in (("schools.csv", ("fine_tuning_sources", "transfer_sources")), ("cases.csv", ("sources",))):
        for row in rows(name):
            assert set(" ".join(row[column] for column in columns).split()) <= set(SOURCES), row["id"]
    assert len(SCHOOLS) == 9
    for school in SCHOOLS.values():  # each word is credited to sources that speak of it
        assert school.fine_tuning_sources and bool(school.transfer_sources) == (school.id != "llm_era")
        assert all(source.asks or source.id == "llama-3" for source in school.fine_tuning_sources), school.id
        assert all(source.transfer for source in school.transfer_sources), school.id
        assert all(source in school.sources for source in school.fine_tuning_sources + school.transfer_sources)
    assert {row["source"] for row in rows("timeline.csv")} <= set(SOURCES)
    assert {row["school"] for row in rows("timeline.csv")} <= {"", *SCHOOLS}
    assert [row["year"] for row in rows("timeline.csv")] == sorted(row["year"] for row in rows("timeline.csv"))
    for row in rows("timeline.csv"):
        assert row["event"] and any("ぁ" <= c <= "ヶ" for c in row["event_ja"]), row["event"]
        if row["source"] != "bozinovski-2020":  # which is cited for an earlier work
            assert int(row["year"]) == SOURCES[row["source"]].year, row["source"]


def test_glossary():
    assert len(GLOSSARY) >= 30
    owner = {}
    for term in GLOSSARY.values():
        assert term.en and term.ja and term.meaning.endswith(".") and term.meaning_ja.endswith("。")
        for word in (term.en, term.ja, *term.synonyms, *term.synonyms_ja):
            assert owner.setdefault(_key(word), term.id) == term.id, f"{word}: {owner[_key(word)]} and {term.id}"
            assert look_up(word) is term
    for word in ("微調整", "再学習", "hyperparameter tuning"):
        assert look_up(word).beware and look_up(word).beware_ja
    for word, id in (("adapters", "adapter"), ("classifiers", "head"), ("encoders", "body"), 
                     ("再学習させた", "retraining"), ("線形プロービング", "linear-probe"), ("RLHF", "rlhf")):
        assert look_up(word).id == id


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text())
@example("")
@example("・")
@example("ファイン・チューニング")
def test_look_up_answers_or_refuses(word):
    try:
        assert isinstance(look_up(word), Term)
    except LookupError as error:
        assert "glossary" in str(error)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sampled_from(sorted({t.en for t in GLOSSARY.values()} | {t.ja for t in GLOSSARY.values()})),
       st.sampled_from([str.upper, str.title, lambda s: f"  {s} ", lambda s: s.replace(" ", "-"),
                        lambda s: "".join(chr(ord(c) + 0xfee0) if "!" <= c <= "~" else c for c in s)]))
def test_look_up_takes_every_spelling(word, spell):
    assert look_up(spell(word)) is look_up(word)


def test_import_is_fast(tmp_path):
    "Under 100 ms of processor time, over what starting Python takes, or 2.5 times a module of Python's; a first run compiles."
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds(what) -> float:
        code = f"from time import process_time as now; start = now(); import {what}; print(now() - start)"
        return min([float(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                                         check=True).stdout) for _ in range(5)][1:])
    assert (ours := seconds("ft_tutorial.terms")) < 0.1 or ours < 2.5 * seconds("unittest.mock"), ours


def test_import_is_light():
    code = ("import sys; from ft_tutorial.terms import Run, name_run; repr(name_run(Run())); "
            "print([m for m in ('torch','fastai','numpy','pandas','matplotlib','fastcore') if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# The Japanese page says the same as the English one.

english, japanese = root / "nbs" / "00_terms.ipynb", root / "nbs" / "ja" / "terms.ipynb"
looked_at = japanese.with_name("terms_looked_at.json")


def claims(path=english):
    "A checksum for each text and each assertion of the English page."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = {cell["id"]: "".join(cell["source"]) for cell in cells}
    return {id: hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12] for id, text in texts.items()
            if id not in ("japanese", "imports", "reexport", "test-imports")}


def test_the_japanese_page_was_looked_at():
    before, now = json.loads(looked_at.read_text(encoding="utf-8")), claims()
    changed = sorted(id for id in before.keys() | now.keys() if before.get(id) != now.get(id))
    assert not changed, (f"nbs/00_terms.ipynb changed in the cells {', '.join(changed)}. Read nbs/ja/terms.ipynb, "
                         "carry over what it must say too, then: python tests/test_terms.py --looked-at")


def test_the_japanese_page_is_japanese():
    cells = json.loads(japanese.read_text(encoding="utf-8"))["cells"]
    assert "default_exp" not in "".join("".join(cell["source"]) for cell in cells)
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            assert any("ぁ" <= c <= "ん" for c in text), cell["id"]
        assert cell["cell_type"] == "markdown" or 'lang="en"' not in text


if __name__ == "__main__" and "--looked-at" in sys.argv:
    looked_at.write_text(json.dumps(claims(), indent=1) + "\n", encoding="utf-8")
    print(f"recorded {len(claims())} cells in {looked_at.relative_to(root)}")
