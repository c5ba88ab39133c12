"""Tables for other programs and for papers, `results.csv` and `table.tex`; and what a sweep cost."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.journal.budget import TOKENS
from sweeper.journal.hours import Hours
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.records import ended
from sweeper.report.rows import columns, trials
from sweeper.spec.hints import confidence
from sweeper.system.files import one_line, printable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

Verdict = Mapping[str, Any]

_ESCAPES = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{char: f"{{{char}}}" for char in "[]*"},  # after a row's \\\\ LaTeX would read them as its arguments
}
# Accents that pdflatex puts on any letter.
_ACCENTS = {*"\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"}
_KNOWN = {*"ßæøåœłÆØÅŒŁ§©°±·×÷–—‘’“”…"}  # to pdflatex, with its usual fonts
# Other characters need a font that has them: lualatex and xelatex show them, pdflatex their number.
OTHER_LETTERS = "\\providecommand{\\otherletter}[2]{\\ifdefined\\Umathchar#1\\else\\texttt{#2}\\fi}"
_LONGEST = 100  # characters of a name in a table
_ENDS = ("\\bottomrule", "\\end{tabular}", "\\end{table}")
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet takes a cell that begins so as a formula


def results_csv(spec: SweepSpec, journal: Journal) -> str:
    """`rows.trials` for other programs: the search first, then the confirmation, in the order of asking.

    No setting is blank in any row. Truth values are 1 and 0, and blank where they are not known.
    """
    found = trials(spec, journal)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(found), lineterminator="\n")
    writer.writerow({key: _cell(key) for key in writer.fieldnames})
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in found)
    return text.getvalue()


def verdict_tex(verdict: Verdict | None, names: Names | None = None) -> str:
    """The verdicts as a LaTeX table; needs the package booktabs. names: in place of what the verdict calls arms."""
    if verdict is None:
        return "% No confirmation has a verdict.\n"
    level = confidence(verdict["alpha"])
    whose = ", for an arm that an earlier look settled at that look's level" if "looks" in verdict else ""
    metric, baseline = _cut(verdict["metric"]), _cut(verdict["baseline"])
    caption = (
        f"Differences in {metric} (nats) from {baseline}, paired over seeds; negative is better. "
        f"Intervals ({level} %{whose}) are unadjusted, p is adjusted by Holm's method."
    )
    lines = [
        "% needs \\usepackage{booktabs}",
        OTHER_LETTERS,
        "\\begin{table}",
        "\\centering\\small\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{escape(caption)}}}",
        "\\begin{tabular}{lrrrrl}",
        "\\toprule",
        f"arm & $n$ & difference & {level}\\,\\% interval & adjusted $p$ & verdict \\\\",
        "\\midrule",
    ]
    for one in verdict["comparisons"]:
        label = verdict.get("told", {}).get(one["arm"], one["verdict"])
        arm = names.name(one["arm"]) if names else one["arm"]
        lines += [f"% {escape(arm)} is {escape(one['arm'])}"] if arm != one["arm"] else []
        cells = [escape(_cut(arm)), *_figures(one), escape(_cut(label))]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, *_ENDS, *_tasks_tex(verdict, names)]) + "\n"


def _tasks_tex(verdict: Verdict, names: Names | None) -> list[str]:
    """The verdicts on tasks as a second table; empty if the record has none."""
    if not (said := verdict.get("tasks")):
        return []
    level, number = confidence(said["alpha"]), len(said["comparisons"])
    caption = (
        f"Differences in tasks' scores from {_cut(verdict['baseline'])}, paired over seeds, secondary to "
        f"{_cut(verdict['metric'])}; positive is better. Intervals ({level} %) are unadjusted, p is adjusted by Holm's "
        f"method over {number} comparison{'s'[number == 1 :]} of tasks and arms."
    )
    lines = [
        "\\begin{table}",
        "\\centering\\small\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{escape(caption)}}}",
        "\\begin{tabular}{llrrrrl}",
        "\\toprule",
        f"task & arm & $n$ & difference & {level}\\,\\% interval & adjusted $p$ & verdict \\\\",
        "\\midrule",
    ]
    for one in said["comparisons"]:
        arm = names.name(one["arm"]) if names else one["arm"]
        first = [escape(_cut(one["metric"])), escape(_cut(arm)), *_figures(one)]
        lines.append(" & ".join([*first, escape(_cut(one["verdict"]))]) + " \\\\")
    return [*lines, *_ENDS]


def _figures(one: Mapping[str, Any]) -> list[str]:
    """Pairs, difference, interval and p of a comparison, for a row in LaTeX."""
    bounds = one["interval"]
    between = "--" if bounds is None else f"$[{bounds[0]:+.4f}, {bounds[1]:+.4f}]$"
    p = "--" if one["n"] < 2 else "$<0.0001$" if one["adjusted"] < 1e-4 else f"${one['adjusted']:.2g}$"
    return [str(one["n"]), "--" if one["mean"] is None else f"${nats(one['mean'])}$", between, p]


def _cell(value: Any) -> Any:
    """A value of results.csv; text that a spreadsheet would take as a formula gets an apostrophe, numbers do not."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str | list | tuple | Mapping):
        return value
    text = printable(str(value))
    return f"'{text}" if str(value).lstrip(" ").startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def escape(text: str) -> str:
    """Text as LaTeX sets it, in one line."""
    return "".join(_ESCAPES.get(char) or _letter(char) for char in one_line(text))


def _cut(text: str) -> str:
    """Text that fits on a page, for a cell that LaTeX does not break into lines."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _letter(char: str) -> str:
    base, *accents = unicodedata.normalize("NFD", char)
    plain = base.isascii() and base.isprintable() and _ACCENTS.issuperset(accents) and len(accents) < 2
    return char if plain or char in _KNOWN else f"\\otherletter{{{char}}}{{U+{ord(char):04X}}}"


def nats(value: float | None) -> str:
    """A difference with four decimals."""
    return "-" if value is None else f"{value:+.4f}"


def interval(bounds: Sequence[float] | None) -> str:
    """Two bounds with four decimals."""
    return "-" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


def cost(spec: SweepSpec, journal: Journal) -> dict[str, str]:
    """What was spent, by name; the hours that trials ran include what a killed session lost."""
    records = list(journal.trials.values())
    hours = trial_hours(journal)
    processes, gpus = spec.resources.processes, spec.resources.gpus_per_worker
    rows = {"wall clock": f"{Hours(journal).wall() / 3600:.2f} hours", "trials ran": f"{hours:.2f} hours in all"}
    rows["GPU-hours"] = f"{hours * processes * gpus:.2f}" if gpus else "0, on CPUs"
    rows |= steps_trained(records, hours)
    read = [_tokens(spec, record) for record in records if not record.reused_from]
    tokens = sum(number or 0 for number in read)
    rows["tokens read"] = "not on record" if None in read else f"{tokens:,}"
    predicted = [
        record.rows[-1].metrics.get("train/predicted") for record in records if record.rows and not record.reused_from
    ]
    if any(predicted):
        rows["tokens predicted"] = f"{sum(value or 0 for value in predicted):,.0f}"
    spent: Counter[str] = Counter()
    for record in records:
        last = record.rows[-1].metrics if record.rows and not record.reused_from else {}
        spent.update({key: value for key, value in last.items() if "energy" in key})  # pyright: ignore[reportArgumentType]
    rows |= {key: f"{value:,.4g}" for key, value in spent.items()}
    if not spent:
        rows["energy"] = "not measured: no trial reported it"
    for stage in dict.fromkeys(record.ask.stage for record in records):
        counts = Counter(record.state for record in records if record.ask.stage == stage)
        rows[f"trials, {stage}"] = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    why = Counter(
        f"{record.state}: {reason}"[:160]
        for record in records
        if record.state != "completed" and (reason := ended(record))
    )
    if why:
        rows["why trials ended early"] = "; ".join(f"{count} × {reason}" for reason, count in why.most_common(8))
    return rows


def steps_trained(records: Sequence[TrialRecord], hours: float) -> dict[str, str]:
    """How many steps were trained, who had trained the others, and whether it was checked that these are the same.

    Empty if every trial started at step 0. hours: that the trials ran.
    """
    shared = [record for record in records if record.start[0]]
    if not shared:
        return {}
    every = sum(record.step for record in records)
    trained = every - sum(record.start[1] for record in shared)
    rows = {"steps trained": f"{trained:,} of {every:,}, {trained / max(1, every):.0%}"}
    taken_over = [record for record in shared if record.reused_from]
    forked = [record for record in shared if not record.reused_from]
    for by, found in (("earlier runs", taken_over), ("another trial", forked)):
        if found:
            number = sum(record.start[1] for record in found)
            rows[f"steps of {by}"] = f"{number:,}, in {len(found)} trials that did not train them again"
    if trained:
        rows["hours saved"] = f"about {hours * (every - trained) / trained:.2f}, at the pace of the steps trained"
    if forked:
        compared = [f"{one.id} at step {one.end.compared:,}" for one in records if one.end and one.end.compared]
        same = f"{', '.join(compared[:4])}{', …' if len(compared) > 4 else ''}: the same to the last bit"
        rows["compared with training"] = same if compared else "none: no trial came from step 0 to where another left"
    return rows


def trial_hours(journal: Journal) -> float:
    """Hours that trials ran, summed over all; none run between sessions."""
    return Hours(journal).of_trials() / 3600


def _tokens(spec: SweepSpec, record: TrialRecord) -> int | None:
    """A trial's tokens by its Ask; if that does not say, by its settings, or else by the baseline's."""
    per_step = (record.ask.budget or {}).get(TOKENS)
    if type(per_step) is int:
        return record.step * per_step
    if spec.stub is not None:
        return None if spec.stub.tokens is None else record.step * spec.stub.tokens
    try:
        return record.step * spec.settings(record.ask.params).tokens_per_step
    except ValueError:
        return record.step * spec.settings(spec.baseline_params).tokens_per_step
