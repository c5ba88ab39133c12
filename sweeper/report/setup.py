"""What was trained on what, as a paper's "Setup": from the journal and the spec; what a record lacks is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.journal import recorded, warm_start
from sweeper.journal.budget import Common
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, fingerprints_in
from sweeper.report.tables import OTHER_LETTERS, cost, escape
from sweeper.system.files import one_line
from sweeper.system.markdown import text
from sweeper.system.secrecy import redact

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

VARIES = "the baseline's; this varies"
_HARDWARE = ("processor", "device", "threads", "concurrency", "cpus", "platform", "python")


def setup(spec: SweepSpec, journal: Journal) -> dict[str, str]:
    """Label -> text, in the order of a paper. Texts may come from a stranger's record: they are not yet escaped."""
    sessions = [event for event in journal.events if isinstance(event, Session)]
    elsewhere = recorded.told(journal)  # then machine, hours and versions of a session are not those of the training
    rows = {"training": recorded.TOLD} if elsewhere else {}
    rows |= trained(sessions)
    records = list(journal.trials.values())
    if (predicted := Common.of(spec, records).predicted) is not None:
        rows["positions predicted a run"] = f"{predicted:,.0f}"
    rows["objective"] = ", ".join(spec.objectives)
    for stage, label in (("search", "search"), ("confirm", "confirmation")):
        found = journal.stage(stage)
        if found:
            seeds = sorted({record.ask.seed for record in found})
            rows[label] = f"{len(found)} trials, {_counted('seed', seeds)}"
    rows["sampler knew"] = "; ".join(warm_start.words(journal.warm_starts()))
    if not elsewhere:
        rows |= _ran(spec, journal, sessions)
    rows |= {key.replace("_", " "): value for key, value in fingerprints_in(journal.facts()).items()}
    return {one_line(label): redact(one_line(said)) for label, said in rows.items() if said}


def section(spec: SweepSpec, journal: Journal) -> str:
    """`setup` as a list in Markdown."""
    return "\n".join(f"* {text(label)}: {text(said)}" for label, said in setup(spec, journal).items())


def tex(spec: SweepSpec, journal: Journal) -> str:
    """`setup` as a LaTeX table; needs the package booktabs."""
    rows = [f"{escape(label)} & {escape(said)} \\\\" for label, said in setup(spec, journal).items()]
    lines = [
        "% needs \\usepackage{booktabs}",
        OTHER_LETTERS,
        "\\begin{table}",
        "\\centering\\small",
        f"\\caption{{Setup of the sweep {escape(spec.name)}.}}",
        "\\begin{tabular}{p{0.25\\linewidth}p{0.68\\linewidth}}",
        "\\toprule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def trained(sessions: Sequence[Session]) -> Mapping[str, str]:
    """What the trainable said of the baseline when the newest session began, and which of it other trials vary."""
    for session in reversed(sessions):
        noted = session.facts.get(recorded.FACT)
        said = noted.get(recorded.SETUP) if isinstance(noted, Mapping) else None
        if isinstance(noted, Mapping) and isinstance(said, Mapping) and said:
            varied = noted.get(recorded.VARIED)
            varied = varied if isinstance(varied, list) else []
            return {
                str(label): f"{words} ({VARIES})" if label in varied else str(words) for label, words in said.items()
            }
    return {}


def _ran(spec: SweepSpec, journal: Journal, sessions: Sequence[Session]) -> Mapping[str, str]:
    """Where and how long the trials ran, and with which code."""
    rows = {"hardware": _alike([_hardware(one.machine) for one in sessions])}
    spent = cost(spec, journal) if sessions and journal.trials else {}
    rows |= {key: spent[key] for key in ("wall clock", "trials ran", "GPU-hours") if key in spent}
    rows["versions"] = _alike([", ".join(f"{name} {one.versions[name]}" for name in one.versions) for one in sessions])
    if commits := _alike([one.git_commit or "" for one in sessions]):
        rows["code"] = f"commit {commits}"
    return rows


def _hardware(machine: Mapping[str, Any]) -> str:
    threads = "{} thread a trial" if machine.get("threads") == 1 else "{} threads a trial"
    named = {"threads": threads, "concurrency": "up to {} trials at a time", "cpus": "{} CPUs"}
    shown = {key: machine[key] for key in _HARDWARE if machine.get(key) not in (None, "")}
    if shown.get("device") == shown.get("processor"):
        shown.pop("device", None)
    named["python"] = "Python {}"
    return ", ".join(named.get(key, "{}").replace("{}", str(value)) for key, value in shown.items())


def _alike(texts: Sequence[str]) -> str:
    """What sessions say of themselves: once if they agree."""
    return "; then ".join(dict.fromkeys(filter(None, texts)))


def _counted(what: str, numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:12])) + ", …" * (len(numbers) > 12)
    return f"{len(numbers)} {what}{'s' * (len(numbers) != 1)} ({shown})"
