"""What a run shows in Python: its record as DataFrames, figures and a little HTML. It writes and trains nothing."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper import status
from sweeper.confirmation.champion import Crowned, crowned
from sweeper.journal import checkpoints, hours, learned, records, run_folders, verdict_text
from sweeper.journal.budget import Common
from sweeper.journal.journal import Journal
from sweeper.report import rows, scores
from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.system.files import one_line
from sweeper.system.markdown import plain
from sweeper.trials import cluster

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHOWN = 10  # rows of a table in a notebook
_PAIR = ("stage", "candidate", "arm", "seed", "baseline", "value", "difference", "stuck")
_VERDICT = (
    "candidate",
    "arm",
    "baseline",
    "metric",
    "pairs",
    "difference",
    "low",
    "high",
    "level",
    "sd",
    "p",
    "verdict",
)
_TASKS = ("task", "candidate", "arm", "pairs", "difference", "low", "high", "level", "sd", "p", "verdict")


class View:
    """A run folder, read anew whenever something was added to its record.

    Args:
        run_dir: the run folder.
        trust_record: read a record that was changed since it was written.
    """

    def __init__(self, run_dir: Path, trust_record: bool = False) -> None:
        self.run_dir, self._trust = Path(run_dir).resolve(), trust_record
        self._read: tuple[Any, SweepSpec, Journal] | None = None

    @property
    def spec(self) -> SweepSpec:
        """The spec, resolved."""
        return self._opened()[0]

    @property
    def journal(self) -> Journal:
        """The record, read-only."""
        return self._opened()[1]

    @property
    def state(self) -> str:
        """completed, failed (every trial did), running (a driver works on it), or open: `resume` goes on with it."""
        return str(status.status(self.run_dir, self._trust)["state"])

    @property
    def report(self) -> Path:
        """The report as a page."""
        return self.run_dir / "report.html"

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the search's best trial; None if none completed on the baseline's budget. It is no result yet."""
        spec, journal = self._opened()
        found = records.best(spec, journal.trials.values())
        return next((row for row in rows.trials(spec, journal) if found and row["trial"] == found.id), None)

    @property
    def champion(self) -> Crowned:
        """What the confirmation makes champion, with the reservations; or why it makes none."""
        return crowned(*self._opened())

    @property
    def caution(self) -> str | None:
        """The sentence on runs that learned too little to compare; None if all is well or nothing is known."""
        return learned.caution(*self._opened())

    def pace(self, trial: str) -> float | None:
        """Seconds that a trial took for a step of its own, validation included; None if it reported too seldom."""
        return hours.pace(self.journal, trial)

    def trials(self) -> pd.DataFrame:
        """A row for each trial of the search, with every setting that varied, resolved: see `report/rows.py`."""
        return self._stage("search")

    def confirmation(self) -> pd.DataFrame:
        """The same of the confirmation's trials."""
        return self._stage("confirm")

    def curves(self) -> pd.DataFrame:
        """All that trials reported: a row for each trial, step and metric."""
        keys = ["stage", "trial", "candidate", "arm", "seed", "step", "metric", "value"]
        return _frame(rows.curves(*self._opened()), keys)

    def verdicts(self) -> pd.DataFrame:
        """What the confirmation says of each arm; no rows while there is no verdict.

        difference: the mean over pairs of runs on one seed, in nats, negative is better. low, high: its interval at
        `level`, unadjusted. p: adjusted by Holm's method.
        """
        spec, journal = self._opened()
        said = journal.verdict()
        if said is None:
            return _frame([], _VERDICT)
        named = {record.ask.arm: rows.names(spec, journal).of(record.ask) for record in journal.stage("confirm")}
        found = []
        for one in said["comparisons"]:
            low, high = one["interval"] or (None, None)
            look = said.get("settled", {}).get(one["arm"])
            alpha = said["looks"][look - 1]["alpha"] if look else said["alpha"]
            found.append(
                {
                    "candidate": named.get(one["arm"], one["arm"]),
                    "arm": one["arm"],
                    "baseline": said["baseline"],
                    "metric": said["metric"],
                    "pairs": one["n"],
                    "difference": one["mean"],
                    "low": low,
                    "high": high,
                    "level": 1 - alpha,
                    "sd": one["sd"],
                    "p": one["adjusted"],
                    "verdict": said["told"].get(one["arm"], one["verdict"]),
                }
            )
        return _frame(found, _VERDICT)

    def task_verdicts(self) -> pd.DataFrame:
        """What the confirmation says of each arm on each task, secondary to `verdicts`; no rows without any.

        difference: the mean over pairs of runs on one seed, positive is better. low, high: its interval at `level`,
        unadjusted. p: adjusted by Holm's method over all tasks and arms.
        """
        spec, journal = self._opened()
        said = journal.verdict()
        compared = (said or {}).get("tasks", {"comparisons": (), "alpha": 0.0})
        called = rows.names(spec, journal)
        found = []
        for one in compared["comparisons"]:
            low, high = one["interval"] or (None, None)
            found.append(
                {
                    "task": one["metric"],
                    "candidate": called.name(one["arm"]),
                    "arm": one["arm"],
                    "pairs": one["n"],
                    "difference": one["mean"],
                    "low": low,
                    "high": high,
                    "level": 1 - compared["alpha"],
                    "sd": one["sd"],
                    "p": one["adjusted"],
                    "verdict": scores.told(one),
                }
            )
        return _frame(found, _TASKS)

    def pairs(self, metric: str | None = None) -> pd.DataFrame:
        """Candidate minus baseline on the same seed, at the last step: a row for each pair of completed runs on budget.

        Of the confirmation; if none has run, of the search, whose pairs are exploration. metric: by default the one
        that the verdict goes by, or the objective. stuck: whether one of the two did not begin to learn, which leaves
        its comparison open; None if unknown. Raises ConfigError for a metric that no trial reports.
        """
        spec, journal = self._opened()
        stage = "confirm" if journal.stage("confirm") else "search"
        test = "test/" + spec.objective.partition("/")[2]
        chosen = metric or (test if stage == "confirm" else spec.objective)
        common, called = Common.of(spec, journal.trials.values()), rows.names(spec, journal)
        done = [one for one in journal.stage(stage) if one.state == "completed" and common.kept(one)]
        values = [(one, one.score(chosen)) for one in done]
        if metric is not None and done and all(value is None for _, value in values):
            there = sorted({key for one in done for key in one.rows[-1].metrics})
            raise ConfigError(("metric",), f"no trial of the {stage} reports {metric!r}; {', '.join(there)}")
        baseline = {one.ask.seed: value for one, value in values if one.ask.arm == spec.baseline and value is not None}
        stuck = {one.id: learned.was_stuck(spec, one) for one in done}
        base = {one.ask.seed: one.id for one in done if one.ask.arm == spec.baseline}
        found = [
            {
                "stage": stage,
                "candidate": called.of(one.ask),
                "arm": one.ask.arm or one.id,
                "seed": one.ask.seed,
                "baseline": baseline[one.ask.seed],
                "value": value,
                "difference": value - baseline[one.ask.seed],
                "stuck": None if stuck[one.id] is None else stuck[one.id] or stuck[base[one.ask.seed]],
            }
            for one, value in values
            if value is not None and one.ask.arm != spec.baseline and one.ask.seed in baseline
        ]
        return _frame(found, _PAIR)

    def bundle(self, trial: str | None = None) -> Path:
        """The folder of a trial's model, tokenizer and settings; by default of the best trial.

        Raises ConfigError if there is none, and files.Unsafe, a ValueError, if it leads out of the run folder.
        """
        spec, journal = self._opened()
        found = records.best(spec, journal.trials.values()) if trial is None else journal.trials.get(trial)
        if found is None:
            raise ConfigError(
                ("trial",), "no trial of the search completed" if trial is None else f"there is no trial {trial!r}"
            )
        kept = files.inside(self.run_dir, "bundles", found.id)
        if kept.is_dir():
            files.refuse_links(kept)
            return kept
        left = checkpoints.bundle(self.run_dir, found.end.checkpoint if found.end else None)
        if left is None:
            raise ConfigError(("trial",), f"{found.id} left no bundle: only trials that completed here leave one")
        return left

    def setup(self) -> dict[str, str]:
        """What was trained on what, for a paper: label -> text."""
        from sweeper.report.setup import setup

        return setup(*self._opened())

    def methods(self) -> str:
        """A paragraph on how the verdict was reached, for a paper."""
        from sweeper.report.methods import methods

        return methods(*self._opened())

    def figure(self, name: str) -> go.Figure:
        """A figure of the report, by plotly; `shares` is the first of those of what was masked.

        Raises ConfigError for a name that this run has no figure of.
        """
        from sweeper.report.html.gallery import gallery
        from sweeper.report.write import importance_of

        if name == "importance" and "ray" not in sys.modules:
            cluster.isolate()  # what knows the importance of settings imports Ray
        spec, journal = self._opened()
        importance = importance_of(spec, journal) if name == "importance" else None
        found = {one.name: one for one in gallery(spec, journal, importance)}
        first = {"shares": next((one for one in found.values() if one.group), None)}
        if drawing := found.get(name) or first.get(name):
            return drawing.figure
        raise ConfigError(("figure",), f"this run has no {name!r}; {nearest(name, found)}")

    def __repr__(self) -> str:
        return f"Run({str(self.run_dir)!r})"

    def _repr_html_(self) -> str:
        """Question, verdict and small tables, for a notebook. All that a record says is escaped."""
        try:
            spec, journal = self._opened()
            trials, pairs = rows.trials(spec, journal), self.verdicts().to_dict("records")
        except (ValueError, OSError) as error:
            return f"<p>{_escaped(f'{self.run_dir}: {error}')}</p>"
        said = journal.verdict()
        answer = verdict_text.headline(said, rows.names(spec, journal)) if said else verdict_text.unsaid(journal)
        parts = [f"<h3>{_escaped(spec.name)}</h3>", f"<p>{_escaped(spec.question)}</p>" if spec.question else ""]
        parts += [f"<p><strong>{_escaped(plain(answer))}</strong></p>"]
        parts += [f"<p>{_escaped(line)}</p>" for line in [learned.caution(spec, journal)] if line]
        parts += [_table("Verdicts: difference to the baseline, negative is better", pairs, _VERDICT)] if pairs else []
        searched = [row for row in trials if row["stage"] == "search"]
        if searched:
            shown = ["trial", "candidate", "seed", "state", "steps", spec.objective]
            parts.append(_table("Search: exploration, not a result", searched, shown))
        ended = sum(row["state"] in ("completed", "stopped", "failed") for row in trials)
        parts.append(f"<p>{ended} of {len(trials)} trials ended. {_escaped(str(self.run_dir))}</p>")
        return f"<div>{''.join(parts)}</div>"

    def _stage(self, stage: str) -> pd.DataFrame:
        found = rows.trials(*self._opened())
        return _frame([row for row in found if row["stage"] == stage], rows.columns(found))

    def _opened(self) -> tuple[SweepSpec, Journal]:
        try:
            seen = [(path.stat().st_size, path.stat().st_mtime_ns) for path in self._files()]
            if self._read is None or self._read[0] != seen:
                self._read = (seen, *run_folders.opened(self.run_dir, self._trust))
        except FileNotFoundError:
            raise ConfigError(
                (), f"{self.run_dir} is not a run folder: it has no journal.jsonl and spec.yaml"
            ) from None
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError((), str(error)) from error
        return self._read[1:]

    def _files(self) -> list[Path]:
        return [self.run_dir / run_folders.SPEC, self.run_dir / run_folders.JOURNAL]


def _frame(found: Iterable[rows.Row], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame.from_records(list(found), columns=list(columns))


def _table(title: str, found: Sequence[rows.Row], columns: Sequence[str]) -> str:
    """A small table, with how many rows it leaves out."""
    heads = "".join(f"<th>{_escaped(one)}</th>" for one in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{_escaped(_shown(row.get(one)))}</td>' for one in columns)}</tr>" for row in found[:SHOWN]
    )
    more = f"<p>{len(found) - SHOWN} more rows</p>" if len(found) > SHOWN else ""
    return f"<p>{_escaped(title)}</p><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{more}"


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return html.escape(one_line(text))
