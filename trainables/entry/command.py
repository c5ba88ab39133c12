"""Put together what the BabyLM challenge asks of a submission: `python -m trainables.entry RUN_DIR --out DIR`.

RUN_DIR is a sweep's run folder (its champion, or else the best of its search, or --trial), a folder of
`python -m trainables.mlm --output`, or a bundle. DIR gets the model in main/NAME, every revision in chck_1M/NAME and so
on, the form's answers and a checklist (ENTRY.md, entry.json) and, with --task official=DATA, predictions.json. Nothing
is uploaded: ENTRY.md has the commands.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.system import files
from trainables import machine
from trainables.entry import checklist, form, page, runs
from trainables.entry.checklist import Item
from trainables.entry.form import Answer
from trainables.entry.runs import Chosen
from trainables.evaluation import hub, rules

if TYPE_CHECKING:
    from trainables.evaluation.official import Official

PREDICTIONS, PAGE, DATA = "predictions.json", "ENTRY.md", "entry.json"


def main(arguments: list[str] | None = None) -> int:
    """Write the folder. Exit status 2 and one line for bad input."""
    files.standard_streams()
    files.private()
    parser = files.Parser(prog="python -m trainables.entry", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--trial", metavar="NAME", help="of a sweep, such as t0007")
    parser.add_argument(
        "--task",
        metavar="official=DATA",
        help="the challenge's data, full_eval and fast_eval: a folder, or hub:OWNER/NAME@REVISION",
    )
    parser.add_argument("--columns", metavar="NAME,NAME", help="some of " + ",".join(rules.COLUMNS))
    parser.add_argument(
        "--trust-record", action="store_true", help="read a sweep's record that was changed since it was written"
    )
    machine.add_arguments(parser)
    try:
        options = parser.parse_args(arguments)
        if options.out.exists() or options.out.is_symlink():
            raise ValueError(f"--out {options.out} exists: name a new folder")
        place, columns = _place(options.task), rules.columns(options.columns)
        if options.columns and place is None:
            raise ValueError("--columns goes with --task official=DATA")
        chosen = runs.find(options.run_dir, options.trial, options.trust_record)
        found = form.facts(chosen.bundle)
        answers = form.answers(chosen, found)
        with files.temporary():
            judged = _judged(chosen, place, columns, options) if place else None
        written = _write(options.out, chosen, answers, checklist.items(chosen, found, answers, judged), judged)
    except (ValueError, OSError) as error:
        return files.refused(error)
    for item in written:
        files.emit(f"{item.state:<8} {item.what}: {item.note}")
    files.say(f"entry: {options.out / PAGE}")
    return 0


def _place(given: str | None) -> str | None:
    """Where the challenge's data are. ValueError, in one line, for another task and for no folder."""
    if given is None:
        return None
    name, _, place = given.partition("=")
    if name != "official" or not place:
        raise ValueError(f"--task {given}: write official=DATA, the folder with full_eval and fast_eval")
    if not place.startswith(hub.HUB) and not Path(place).is_dir():
        raise ValueError(f"--task {given}: there is no folder {place}")
    return place


def _judged(chosen: Chosen, place: str, columns: Sequence[str], options: argparse.Namespace) -> Official:
    """By the challenge's tasks, the revisions by the fast ones."""
    from trainables.evaluation import official

    machine.use(options.device, options.threads)
    data, origin = hub.folder(place)
    series = next((path.parent for name, path in chosen.series.items() if name in rules.CHECKPOINTS), None)
    request = official.Request(
        chosen.bundle, data, columns, series=series, fast=series is not None, device=options.device, origin=origin
    )
    told: dict[str, None] = {}

    def tell(what: str, _done: int, _total: int) -> None:
        if what not in told:
            told[what] = None
            files.say(what)

    return official.evaluate(request, tell)


def _write(
    out: Path, chosen: Chosen, answers: Sequence[Answer], listed: Sequence[Item], judged: Official | None
) -> Sequence[Item]:
    """Write all of it, as a whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, folder in {page.MAIN: chosen.bundle, **chosen.series}.items():
            _copy(folder, partial / name / chosen.name)
        if judged is not None:
            files.put(partial / PREDICTIONS, json.dumps(judged.submission) + "\n")
        tree = {
            "year": rules.YEAR,
            "model": chosen.name,
            "revisions": {name: f"{name}/{chosen.name}" for name in (page.MAIN, *chosen.series)},
            "form": [asdict(each) for each in answers],
            "checklist": [asdict(each) for each in listed],
            "data": page.source(judged),
            "scores": page.scores(judged),
        }
        files.put(partial / DATA, json.dumps(tree, indent=2) + "\n")
        files.put(partial / PAGE, page.page(chosen, answers, listed, judged))
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return listed


def _copy(bundle: Path, target: Path) -> None:
    """The files of a model and its tokenizer alone: no code and no analysis. Links are not followed."""
    target.mkdir(parents=True)
    for name in runs.FILES:
        try:
            with files.reading(bundle / name) as read, (target / name).open("xb") as write:
                shutil.copyfileobj(read, write)
        except FileNotFoundError:
            if name in runs.FILES[:3]:
                raise ValueError(f"{bundle} has no {name}, which an entry needs") from None
