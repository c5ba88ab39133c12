"""Score a bundle on the field's tasks: `python -m trainables.evaluate BUNDLE --task blimp=DIR --task glue/boolq=DIR`.

Tasks: blimp and zorro (grammar by minimal pairs), wug_adj and wug_past (morphology), ewok, entity_tracking, comps and
global_piqa (the likeliest completion), reading (reading times), and glue/NAME (fine-tuning on boolq, multirc, rte, wsc,
mrpc, qqp, mnli; `fast` is a small part of it). All are checked before any is scored. `--task official=DIR` alone gives
the nine columns of the BabyLM challenge, by its rules, from the folder with `full_eval` and `fast_eval`; DIR may be
hub:OWNER/NAME or hub:OWNER/NAME@REVISION, a dataset repository with these.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.system import files, yaml_reader
from trainables import limits, machine
from trainables.evaluation import rules

if TYPE_CHECKING:
    from rich.table import Table

    from trainables.evaluation.kept import TaskProgress
    from trainables.evaluation.official import Official
    from trainables.evaluation.tasks import TaskScore

OFFICIAL = "official"


def main(arguments: list[str] | None = None) -> int:
    """Print the scores. Exit status 2 and one line for bad input."""
    files.standard_streams()
    files.private()
    parser = files.Parser(prog="python -m trainables.evaluate", description=__doc__)
    parser.add_argument("bundle", type=Path, help="a folder that AutoModelForMaskedLM and AutoTokenizer load")
    parser.add_argument("--task", action="append", default=[], metavar="NAME=PATH", help="repeat for every task")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout in place of the table")
    parser.add_argument("--seeds", type=int, default=1, help="fine-tuning runs of a glue task (default: 1)")
    parser.add_argument(
        "--pooling",
        choices=("cls", "last"),
        default="cls",
        help="what a glue task reads of a text: its first position, as in 2025 (default), or its last one, padded on "
        "the left, as in 2026; the task is then called glue/NAME-last",
    )
    challenge = parser.add_argument_group("with --task official=DIR")
    challenge.add_argument("--columns", metavar="NAME,NAME", help="some of " + ",".join(rules.COLUMNS))
    challenge.add_argument("--predictions", type=Path, metavar="FILE", help="write the predictions for a submission")
    challenge.add_argument("--fast", action="store_true", help="the fast evaluation of every checkpoint too, into FILE")
    challenge.add_argument("--series", type=Path, metavar="DIR", help="the checkpoints (default: BUNDLE/series)")
    challenge.add_argument(
        "--rule", choices=("official", "ours"), default="official", help="how ties, pieces of words and a large p count"
    )
    challenge.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that share --threads and the scoring without fine-tuning: a Ray cluster's if RAY_ADDRESS names "
        "one, else this machine's (default: 1)",
    )
    machine.add_arguments(parser)
    try:
        options = parser.parse_args(arguments)
        if options.seeds < 1:
            raise ValueError("--seeds must be at least 1")
        wanted = _tasks(options.task, options.pooling)
        data = _official(options, wanted)
        untrained_parts = _never_trained(options.bundle)
        with files.temporary(), _bar() as progress:
            found = _judged(options, data, progress) if data else _scores(options, wanted, progress)
    except (ValueError, OSError) as error:
        return files.refused(error)
    if untrained_parts:
        files.say(untrained_parts)
    if isinstance(found, dict):
        _print(found, options.json)
    else:
        _print_official(found, options.json)
    return 0


def _official(options: argparse.Namespace, wanted: dict[str, str]) -> str | None:
    """Where the challenge's data are, if its table is asked for. ValueError for settings that do not fit."""
    given = [name for name in ("columns", "predictions", "fast", "series") if getattr(options, name)]
    given += ["rule"] if options.rule != "official" else []
    given += ["workers"] if options.workers != 1 else []
    if OFFICIAL not in wanted:
        if given:
            raise ValueError(f"--{given[0]} goes with --task {OFFICIAL}=DIR")
        return None
    if len(wanted) > 1:
        raise ValueError(f"--task {OFFICIAL}=DIR goes alone: it has tasks of its own")
    if options.threads >= 1 and not 1 <= options.workers <= options.threads:  # other --threads are refused later
        raise ValueError(f"--workers {options.workers}: must be 1 to {options.threads}, the --threads that they share")
    machine.check_workers(options.workers, options.device)
    if options.fast and not options.predictions:
        raise ValueError("--fast needs --predictions FILE, which is where the scores of the series go")
    if options.predictions and options.rule != "official":
        raise ValueError("--predictions are by the challenge's own rule: leave out --rule ours")
    if options.predictions and (options.predictions.is_dir() or not options.predictions.parent.is_dir()):
        raise ValueError(f"--predictions {options.predictions}: name a file in a folder that exists")
    return wanted[OFFICIAL]


def _judged(options: argparse.Namespace, place: str, progress: TaskProgress) -> Official:
    """The challenge's table. Its predictions are written if a file is named."""
    from trainables.evaluation import hub, official

    columns = rules.columns(options.columns)
    machine.use(options.device, options.threads)
    data, origin = hub.folder(place)
    request = official.Request(
        options.bundle,
        data,
        columns,
        options.rule,
        options.series,
        options.fast,
        0,
        range(options.seeds),
        options.device,
        options.workers,
        origin,
    )
    found = official.evaluate(request, progress)
    if options.predictions:
        files.put(options.predictions, json.dumps(found.submission))
    return found


def _scores(options: argparse.Namespace, wanted: dict[str, str], progress: TaskProgress) -> dict[str, TaskScore]:
    from trainables.evaluation import pseudo_likelihood, tasks

    machine.use(options.device, options.threads)
    model, _ = pseudo_likelihood.load(options.bundle)
    tasks.check(wanted, options.bundle, pseudo_likelihood.positions(model))
    return tasks.evaluate(options.bundle, wanted, 0, progress, options.device, range(options.seeds))


def _tasks(settings: list[str], pooling: str = "cls") -> dict[str, str]:
    """Paths by task name, from NAME=PATH settings. pooling: `last` makes each glue task that of 2026."""
    found: dict[str, str] = {}
    for setting in settings:
        name, _, path = setting.partition("=")
        if not path:
            raise ValueError(f"--task {setting}: write NAME=PATH, such as blimp=data/blimp")
        if pooling == "last" and name.startswith("glue/") and not name.endswith("-last"):
            name += "-last"
        if name in found:
            raise ValueError(f"--task {name} is given twice")
        found[name] = path
    if not found:
        raise ValueError("no task: give --task NAME=PATH, such as --task blimp=data/blimp")
    return found


def _never_trained(bundle: Path) -> str:
    """A line on the parts of the bundle that were never trained, if its settings say so."""
    path = bundle / "training_config.yaml"
    if bundle.exists():
        files.refuse_record_links(bundle)
        files.refuse_links(bundle.resolve())
    if not path.is_file():
        return ""
    try:
        settings = yaml_reader.parse(limits.read(path, limits.YAML).decode())
        block = settings["data"]["block"]
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except (LookupError, TypeError):
        return ""
    return f"Positions beyond {block} and [CLS] were never trained." if isinstance(block, int) else ""


@contextmanager
def _bar() -> Iterator[TaskProgress]:
    """A progress bar on stderr, with a line for every task; nothing if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        lines: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            name = what.partition(":")[0]
            if name not in lines:
                lines[name] = bar.add_task(what)
            bar.update(lines[name], description=what, completed=done, total=total or None)

        yield show


def _print(scores: dict[str, TaskScore], as_json: bool) -> None:
    from rich.console import Console

    from trainables.evaluation import tasks

    if as_json:
        files.emit(json.dumps(tasks.details(scores)))
        return
    console = Console()
    with console.capture() as drawn:
        console.print(table(scores))
    files.emit(drawn.get().removesuffix("\n"))


def _print_official(found: Official, as_json: bool) -> None:
    """The challenge's table, and a line on stderr for everything that sets it apart from the challenge's own."""
    from dataclasses import asdict

    from rich.console import Console

    from trainables.evaluation import hub

    for note in found.notes:
        files.say(f"caution: {note}")
    if as_json:
        columns = {name: asdict(column) if column else None for name, column in found.columns.items()}
        told = {"year": rules.YEAR, "data": found.origin, "columns": columns, "total": found.total}
        files.emit(json.dumps(told | {"notes": found.notes}))
        return
    if found.origin.startswith(hub.HUB):
        files.say(f"data: {found.origin}")
    console = Console()
    with console.capture() as drawn:
        console.print(official_table(found))
    files.emit(drawn.get().removesuffix("\n"))


def official_table(found: Official) -> Table:
    """The columns in the leaderboard's order and unit, as rows, and their mean if all are there."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    drawn.add_column(f"BabyLM {rules.YEAR}", overflow="fold")
    for name in ("score", "95 % interval", "ties as shares", "ties", "untrained"):
        drawn.add_column(name, justify="right")
    for name, column in found.columns.items():
        if column is None:
            drawn.add_row(rules.COLUMNS[name], style="bold")
            continue
        interval = "{:.2f} to {:.2f}".format(*(100 * end for end in column.ci)) if column.ci else ""
        numbers = (_percent(column.score), interval, _percent(column.half), _whole(column.ties))
        drawn.add_row(rules.COLUMNS[name], *numbers, _percent(column.untrained), style="bold")
        for group, row in column.by.items():
            shown = _whole if name == "aoa" and group == "words" else _percent
            half, ties = _percent(row.get("half")), _whole(row.get("ties"))
            label = Text(f"  {files.printable(group)}")
            drawn.add_row(label, shown(row["score"]), "", half, ties, shown(row.get("untrained")))
    if found.total is not None:
        drawn.add_row("mean of the nine", _percent(found.total), style="bold")
    return drawn


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def table(scores: dict[str, TaskScore]) -> Table:
    """The scores, each followed by those of its phenomena or seeds."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("task", overflow="fold")  # names of paradigms begin alike, so they are never cut
    drawn.add_column("measure")
    for name in ("score", "95 % interval", "ties to option 0", "ties", "untrained"):
        drawn.add_column(name, justify="right")
    for name, score in scores.items():
        interval = "{:.4f} to {:.4f}".format(*score.ci) if score.ci else ""
        numbers = (_number(score.score), interval, _number(score.score_first), _whole(score.ties))
        drawn.add_row(name, score.measure, *numbers, _number(score.untrained), style="bold")
        for group, row in score.by.items():
            first, ties = _number(row.get("score_first")), _whole(row.get("ties"))
            drawn.add_row(
                Text(f"  {files.printable(group)}"),
                "",
                _number(row["score"]),
                "",
                first,
                ties,
                _number(row.get("untrained")),
            )
    return drawn


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
