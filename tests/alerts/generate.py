"""Writes alerts/tests from cases, rules and golden pages: `uv run python tests/alerts/generate.py [SUBJECT]`."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: `alerts` is found in tests/

from alerts.casefile import CASES, Case, CaseError, Entry, read
from alerts.promtool import Fired, got
from alerts.ruleset import ALERTS, Needs, Rule, Rules, load, selectors
from alerts.series import Labels, Series, matches, series_of

TESTS = ALERTS / "tests"

USUAL = "1m"
HEAD = """\
# Written by tests/alerts/generate.py from tests/alerts/cases/{subject}.yml.
# Run it with: promtool test rules {file}
"""


@dataclass(frozen=True)
class Test:
    """One case with all that promtool has to know."""

    place: str
    rule: Rule
    needs: Needs
    case: Case
    fires: bool
    series: Mapping[str, str]

    @property
    def name(self) -> str:
        """How promtool calls it."""
        return f"{self.rule.name}: {self.case.name}"

    def written(self, expected: Sequence[Any]) -> dict[str, Any]:
        """The test group that expects these alerts."""
        return {
            "name": self.name,
            "interval": self.case.interval,
            "input_series": [{"series": series, "values": values} for series, values in self.series.items()],
            "alert_rule_test": [
                {"eval_time": self.case.at, "alertname": self.rule.name, "exp_alerts": list(expected)},
            ],
        }


Answers = Mapping[str, Sequence[Fired]]
"""Test -> the alerts that fired."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tests, or compare them; prints what is wrong and returns how the process is to end."""
    options = _options(arguments)
    errors: list[str] = []
    files: dict[str, str] = {}
    for subject in options.subjects or sorted(file.stem for file in CASES.glob("*.yml")):
        try:
            files |= generated(subject)
        except CaseError as error:
            errors.append(str(error))
    stale = set() if options.subjects or errors else {file.name for file in TESTS.glob("*.yml")} - files.keys()
    if options.check:
        errors += _compared(files, stale)
    else:
        _write(files, stale)
    print("".join(f"{error}\n" for error in errors), end="", file=sys.stderr)
    return 1 if errors else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="only these case files, by name without .yml")
    return parser.parse_args(arguments)


def _compared(files: Mapping[str, str], stale: set[str]) -> list[str]:
    found = {name: TESTS / name for name in files}
    old = [name for name, file in found.items() if not file.is_file() or file.read_text("utf-8") != files[name]]
    return [f"alerts/tests/{name}: out of date; run: uv run python tests/alerts/generate.py" for name in (*old, *stale)]


def _write(files: Mapping[str, str], stale: set[str]) -> None:
    TESTS.mkdir(exist_ok=True)
    for name, text in files.items():
        (TESTS / name).write_text(text, "utf-8")
    for name in stale:
        (TESTS / name).unlink()


def asked(tests: Sequence[Test], name: str) -> Answers:
    """What promtool gets for each test: none is expected to pass, so that it prints them all."""
    wrong = [{"exp_labels": {"nobody": "expects this"}}]
    content = _file(tests, [test.written(wrong) for test in tests], str(ALERTS / "rules"))
    fired, said = got(content, [test.name for test in tests])
    if said:
        raise CaseError("\n".join(f"{test.place}: promtool: {said}" for test in tests if test.name not in fired))
    return fired


def remembered(tests: Sequence[Test], name: str) -> Answers:
    """What the file in alerts/tests says that promtool got, for when promtool runs that file anyway."""
    file = TESTS / name
    groups = yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)["tests"] if file.is_file() else []
    alerts = {group["name"]: group["alert_rule_test"][0]["exp_alerts"] for group in groups}
    return {test.name: [_fired(test, alert) for alert in alerts.get(test.name, [])] for test in tests}


def generated(subject: str, answers: Callable[[Sequence[Test], str], Answers] = asked) -> dict[str, str]:
    """Make the test files of a subject: name -> text. One for each pace of evaluation, which a file has one of."""
    file, rules = CASES / f"{subject}.yml", load()
    if not file.is_file():
        raise CaseError(f"{file.name}: no such file in tests/alerts/cases")
    errors: list[str] = []
    tests = [test for entry in read(file) for test in _tests(file.name, entry, rules, errors)]
    written = {}
    for pace in sorted({test.case.pace for test in tests}, key=lambda pace: (pace != USUAL, pace)):
        chosen = [test for test in tests if test.case.pace == pace]
        name = f"{subject}.yml" if pace == USUAL else f"{subject}_{pace}.yml"
        fired = answers(chosen, name)
        errors += [error for test in chosen for error in _judged(test, fired[test.name])]
        groups = [test.written([_expected(one) for one in fired[test.name]]) for test in chosen]
        content = _file(chosen, groups, "../rules")
        text = yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=1_000_000)
        written[name] = HEAD.format(subject=subject, file=name) + text
    if errors:
        raise CaseError("\n".join(errors))
    return written


def _expected(fired: Fired) -> dict[str, Labels]:
    labels = {key: value for key, value in fired.labels.items() if key != "alertname"}
    return {"exp_labels": labels, "exp_annotations": dict(fired.annotations)}


def _fired(test: Test, expected: Mapping[str, Labels]) -> Fired:
    return Fired({"alertname": test.rule.name, **expected["exp_labels"]}, expected["exp_annotations"])


def _file(tests: Sequence[Test], groups: Sequence[Any], folder: str) -> dict[str, Any]:
    subjects = list(dict.fromkeys(subject for test in tests for subject in test.needs.subjects))
    return {
        "rule_files": [f"{folder}/{subject}.yml" for subject in subjects],
        "evaluation_interval": tests[0].case.pace,
        "group_eval_order": subjects,
        "tests": groups,
    }


def _tests(file: str, entry: Entry, rules: Rules, errors: list[str]) -> Iterator[Test]:
    rule = rules.alerts.get(entry.alert)
    if rule is None:
        errors.append(f"{file}: {entry.alert}: no such alert in alerts/rules")
        return
    needs = rules.needs(rule)
    for fires, cases in ((True, entry.fires), (False, entry.silent)):
        for case in cases:
            place = f"{file}: {entry.alert}: {case.name}"
            try:
                yield Test(place, rule, needs, case, fires, _input(case, case.page or entry.page, needs))
            except ValueError as error:
                errors.append(f"{place}: {error}")


def _input(case: Case, page: str, needs: Needs) -> dict[str, str]:
    """The series of the page that the alert reads, with the case's values, and what the case adds."""
    times = math.ceil(_seconds(case.at) / _seconds(case.interval)) + 1
    shown = [*series_of(page), *(one for where, other in case.beside.items() for one in series_of(other, where))]
    there = [series for series in shown if series.name in needs.metrics]
    values = {str(series): f"{series.value}x{times}" for series in there}
    for selector, own in case.series.items():
        values |= {str(series): own for series in _picked(selector, there, page, needs)}
    gone = {str(series) for selector in case.without for series in _picked(selector, there, page, needs)}
    return {series: given for series, given in values.items() if series not in gone} | dict(case.extra)


def _picked(selector: str, series: Sequence[Series], page: str, needs: Needs) -> list[Series]:
    """The series that a selector picks; none is a mistake."""
    try:
        [wanted] = selectors(selector)
    except ValueError as error:
        raise ValueError(f"{selector}: {error}") from error
    found = [each for each in series if each.name == wanted.name and matches(wanted, each.labels)]
    if not found:
        here = wanted.name in needs.metrics
        why = f"no such series on the page {page}" if here else "the alert does not read this metric"
        raise ValueError(f"{selector}: {why}")
    return found


def _seconds(duration: str) -> float:
    return promql_parser.parse_duration(duration).total_seconds()


BROKEN = re.compile(r"<error|<no value>|%!")
"""What a template leaves that failed, lacks a label or prints a value with the wrong verb."""


def _judged(test: Test, fired: Sequence[Fired]) -> Iterator[str]:
    for one in fired:
        broken = [f"{name}: {text}" for name, text in one.annotations.items() if BROKEN.search(text)]
        yield from (f"{test.place}: template of {text}" for text in broken)
    if not test.fires and fired:
        yield f"{test.place}: fires, and must not: {_told(fired)}"
    if test.fires and not fired:
        yield f"{test.place}: does not fire at {test.case.at}"
    elif test.fires and not any(_as_meant(test.case, one) for one in fired):
        yield f"{test.place}: no alert says {list(test.case.says)} with {dict(test.case.labels)}: {_told(fired)}"


def _as_meant(case: Case, fired: Fired) -> bool:
    description = fired.annotations.get("description", "")
    return case.labels.items() <= fired.labels.items() and all(text in description for text in case.says)


def _told(fired: Sequence[Fired]) -> str:
    return "".join(f"\n    {dict(one.labels)}\n    {one.annotations.get('description', '')}" for one in fired)


if __name__ == "__main__":
    sys.exit(main())
