"""The table behind "name your run": every verdict on every possible run, computed by the Python rules.

Each school looks at some of the facts only, so its verdicts fit into a table over those facts. The page looks
them up; it knows no rule. `build_table` checks the table against the rules on every run that can exist.
"""
from collections.abc import Iterable
from math import prod

from ft_tutorial.flips import _changed
from ft_tutorial.rules import _meanings
from ft_tutorial.terms import CASES, SCHOOLS, VALUES, Run, every_run, name_run
from ft_tutorial.verdicts import _reason

digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
words = "fine_tuning", "transfer_learning"
_sizes = [len(values) for values in VALUES.values()]
coupled = "carrier", "inherited", "moved", "update"  # facts that can exclude each other


def facts_of(run: Run) -> tuple[int, ...]:
    "Each fact as the place of its value in `VALUES`."
    return tuple(values.index(getattr(run, fact)) for fact, values in VALUES.items())


def _needed(outcomes: dict) -> tuple[list[int], dict]:
    "The facts that an outcome depends on, and the outcomes by these facts alone."
    kept = list(range(len(VALUES)))
    for fact in reversed(range(len(VALUES))):
        at = kept.index(fact)
        smaller = {}
        if all(smaller.setdefault(state[:at] + state[at + 1:], outcome) == outcome
               for state, outcome in outcomes.items()):  # no two outcomes meet without it
            kept.remove(fact)
            outcomes = smaller
    return kept, outcomes


def _place(state: Iterable[int], facts: list[int]) -> int:
    "The place of a state of `facts` in a table over them."
    place = 0
    for value, fact in zip(state, facts):
        place = place * _sizes[fact] + value
    return place


def _table(outcomes: dict) -> dict:
    "A list of distinct outcomes, and one digit for each state of the facts that they depend on."
    facts, smaller = _needed(outcomes)
    distinct = list(dict.fromkeys(outcomes.values()))
    if len(distinct) > len(digits):
        raise ValueError(f"{len(distinct)} different outcomes, and {len(digits)} digits to write them with")
    cells = ["-"] * prod(_sizes[fact] for fact in facts)  # "-": no such run
    for state, outcome in smaller.items():
        cells[_place(state, facts)] = digits[distinct.index(outcome)]
    return {"facts": facts, "outcomes": distinct, "cells": "".join(cells)}


def look_up(table: dict, state: tuple[int, ...]):
    "What the page does: find the outcome of a state."
    digit = table["cells"][_place((state[fact] for fact in table["facts"]), table["facts"])]
    return table["outcomes"][digits.index(digit)]


def _follows(runs: dict) -> dict:
    """What becomes of the coupled facts when one of them changes: of their state, the fact and its new value.

    All other facts can have any value in any run; the count of runs proves it."""
    places = [[*VALUES].index(fact) for fact in coupled]
    some_run = {tuple(state[place] for place in places): run for state, run in runs.items()}
    free = prod(len(values) for fact, values in VALUES.items() if fact not in coupled)
    if len(runs) != len(some_run) * free:
        raise AssertionError(f"other facts than {coupled} exclude each other")
    return {"".join(map(str, state)) + f"{number}{value}": "".join(
                str(facts_of(_changed(run, fact, VALUES[fact][value]))[place]) for place in places)
            for state, run in some_run.items()
            for number, fact in enumerate(coupled) for value in range(len(VALUES[fact]))}


def build_tables() -> tuple[dict, dict]:
    "All verdicts by (school, word), and `_follows`; checked against the rules on every possible run."
    runs = {facts_of(run): run for run in every_run()}
    verdicts = {state: name_run(run) for state, run in runs.items()}
    tables = {}
    for school in SCHOOLS:
        for number, word in enumerate(words):
            outcomes = {}
            for state, named in verdicts.items():
                verdict = named[school]
                name = (verdict.name, verdict.name_ja) if word == "fine_tuning" else (None, None)
                reasons = [_reason(runs[state], verdict.facts[number], ja) for ja in (False, True)]
                outcomes[state] = (getattr(verdict, word), *reasons, *name)
            tables[school, word] = table = _table(outcomes)
            for state, outcome in outcomes.items():
                if look_up(table, state) != outcome:
                    raise AssertionError(f"the table of {school}, {word} errs on {runs[state]}")
    return tables, _follows(runs)


def page_data(tables: dict, follows: dict, lang: str) -> dict:
    "What the page in one language needs, ready for JSON."
    ja = lang == "ja"
    return {
        "facts": [[fact, [{True: "yes", False: "no"}.get(value, value) for value in values],
                   [_meanings[fact][value][ja] for value in values]] for fact, values in VALUES.items()],
        "default": facts_of(Run()),
        "coupled": [[*VALUES].index(fact) for fact in coupled],
        "follows": follows,
        "schools": [[school.id, school.name_ja if ja else school.name] for school in SCHOOLS.values()],
        "tables": [[[table["facts"], [[answer, reason_ja if ja else reason, name_ja if ja else name]
                                      for answer, reason, reason_ja, name, name_ja in table["outcomes"]],
                     table["cells"]] for table in (tables[school, word] for word in words)] for school in SCHOOLS],
        "cases": [[case.id, facts_of(case.run), case.point_ja if ja else case.point] for case in CASES.values()],
    }
