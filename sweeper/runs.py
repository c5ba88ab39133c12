"""The runs of a storage: `python -m sweeper.runs [STORAGE]`. Lists, compares, deletes and moves them.

Listing writes nothing. Exit status 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweeper import housekeeping, status
from sweeper.confirmation import across
from sweeper.confirmation.across import Change, Comparison
from sweeper.journal import object_store, records, run_folders
from sweeper.journal.names import Names
from sweeper.spec.hints import nearest
from sweeper.system import faults, files
from sweeper.system.files import one_line

REFUSED = 2
QUESTION = 60  # characters of a question or of notes in the list
UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run in a storage.

    Args:
        name: of its folder, which is `run_dir`.
        sweep: the spec's name.
        state: completed, failed, running, open (no driver works on it), or unreadable.
        best: of the search: its trial, what it is, its score, and the objective; exploration.
        verdict: of the confirmation, in words; None without one.
        told: arm -> its verdict.
        disk: bytes in the folder; a checkpoint taken over from another run counts in both.
        last: time of its last event, in s since 1970; None where nothing had begun.
        error: why it cannot be read.
    """

    name: str
    run_dir: str
    state: str
    disk: int
    sweep: str | None = None
    question: str = ""
    best: dict[str, Any] | None = None
    verdict: str | None = None
    told: dict[str, str] = field(default_factory=dict)
    trials: int = 0
    begun: float | None = None
    last: float | None = None
    notes: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    error: str | None = None


def listed(storage: Path | str = "runs", trust: bool = False) -> list[Listed]:
    """The runs of a storage, the newest first; one that cannot be read is listed as such.

    storage: a folder, or the address of an object store. trust: also read records that were changed.
    Raises ValueError, in one line, for what is no storage.
    """
    given, _ = run_folders.here(str(storage), None)
    folder = (given or Path(storage)).resolve()
    lost = dict(_fetched(folder))
    if not folder.is_dir():
        raise ValueError(f"{storage}: there is no such folder; name the storage in which run folders lie")
    found = [_one(path, trust, lost.get(path.name)) for path in housekeeping.folders(folder)]
    return sorted(found, key=lambda one: (-(one.last or 0), one.name))


def _fetched(folder: Path) -> list[tuple[str, str]]:
    """Bring the records of an object store here; (name, why) of those that cannot be had."""
    lost = []
    for name in object_store.names(folder):
        try:
            object_store.fetch(files.inside(folder, name))
        except (ValueError, OSError) as error:
            lost.append((name, str(error)))
    return lost


def _one(run_dir: Path, trust: bool, lost: str | None = None) -> Listed:
    """Whatever is wrong with a folder, the others are listed."""
    disk, changed = 0, None
    try:
        disk, changed = run_folders.size(run_dir)[0], run_dir.lstat().st_mtime
        if lost:
            raise ValueError(lost)
        return _read(run_dir, disk, trust)
    except (ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = (files.describe(error) if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return Listed(
            name=run_dir.name,
            run_dir=str(run_dir),
            state=UNREADABLE,
            disk=disk,
            last=changed,
            error=one_line(why).replace(f"{run_dir}/", ""),
        )


def _read(run_dir: Path, disk: int, trust: bool) -> Listed:
    driver = status.driven(run_dir)  # before the journal: what a driver wrote before it ended is then read
    spec, journal = run_folders.opened(run_dir, trust)
    best, verdict = records.best(spec, journal.trials.values()), journal.verdict()
    champion = verdict["champion"] if verdict else None
    return Listed(
        name=run_dir.name,
        run_dir=str(run_dir),
        state=status.state_of(spec, journal, driver),
        disk=disk,
        sweep=spec.name,
        question=spec.question,
        best=None
        if best is None
        else {
            "trial": best.id,
            "what": Names(spec, (record.ask for record in journal.trials.values())).of(best.ask),
            "score": best.score(spec.objective),
            "objective": spec.objective,
        },
        verdict=None if verdict is None else f"confirmed: {champion}" if champion else "nothing is confirmed",
        told=dict(verdict["told"]) if verdict else {},
        trials=len(journal.trials),
        begun=journal.events[0].time if journal.events else None,
        last=journal.events[-1].time if journal.events else (run_dir / run_folders.SPEC).lstat().st_mtime,
        notes=spec.notes,
        tags=dict(spec.tags),
        doubts=journal.doubts(),
    )


def compared(storage: Path, first: str, second: str, trust: bool = False) -> tuple[list[Path], Comparison]:
    """Two run folders, by path or by their names in a storage, and what differs. Raises ValueError in one line."""
    places = [_folder(storage, given) for given in (first, second)]
    if places[0] == places[1]:
        raise ValueError(f"--compare: {first} and {second} are the same run")
    opened = [run_folders.opened(place, trust) for place in places]
    return places, across.compared(opened[0], opened[1])


def _folder(storage: Path, given: str) -> Path:
    """A run to read, which may lie anywhere."""
    for path in (Path(given), storage / given):
        if (path / run_folders.SPEC).is_file():
            return path.resolve()
    names = [one.name for one in housekeeping.folders(storage)] if storage.is_dir() else []
    raise ValueError(f"{given} is no run folder, and {storage} has none of that name; {nearest(given, names)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Show it on stdout; the exit status."""
    files.standard_streams()
    files.private()
    files.at_home()
    try:
        args = _parser().parse_args(argv)
        _refuse_mixed(args)
        given, _ = run_folders.here(args.storage, None)
        return _carry_out(args, given or Path("runs"))
    except ValueError as error:
        files.say(f"error: {error}")
    except OSError as error:
        files.say(f"error: {faults.describe(error)}")
    except KeyboardInterrupt:
        files.say("interrupted")
        return 130
    return REFUSED


def _parser() -> files.Parser:
    parser = files.Parser(prog="python -m sweeper.runs", description="The runs of a storage.")
    parser.add_argument("storage", nargs="?", metavar="STORAGE", help="where run folders lie: ./runs by default")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="what differs between two runs")
    parser.add_argument("--delete", metavar="RUN", help="delete a run's folder and what MLflow has of it")
    parser.add_argument("--champion", metavar="NAME", help="delete the champion of this model, too (with --delete)")
    parser.add_argument("--move", nargs=2, metavar=("RUN", "DIR"), help="move a run's folder into the storage DIR")
    parser.add_argument("--yes", action="store_true", help="ask nothing (with --delete)")
    parser.add_argument(
        "--trust-record", action="store_true", help="read records that were changed since they were written"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


def _refuse_mixed(args: argparse.Namespace) -> None:
    asked = [f"--{name}" for name in ("compare", "delete", "move") if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f"{asked[0]} and {asked[1]}: one at a time")
    for name in ("champion", "yes"):
        if getattr(args, name) and not args.delete:
            raise ValueError(f"--{name} goes with --delete RUN")


def _carry_out(args: argparse.Namespace, storage: Path) -> int:
    if args.compare:
        places, found = compared(storage, *args.compare, trust=args.trust_record)
        runs = [_one(place, args.trust_record) for place in places]
        tree = {"runs": [asdict(one) for one in runs], **found.to_dict()}
        files.emit(json.dumps(tree) if args.json else "\n".join(_comparison(runs, found)))
    elif args.delete:
        deletion = housekeeping.planned(storage, args.delete, args.champion)
        for line in deletion.lines():
            files.say(line)
        if not (args.yes or _agreed()):
            raise ValueError("nothing is deleted")
        housekeeping.carry_out(deletion)
        files.emit(json.dumps({"deleted": str(deletion.run_dir)}) if args.json else f"deleted {deletion.run_dir}")
    elif args.move:
        run, target = args.move
        if object_store.is_address(target):
            raise ValueError(f"--move {target}: a run moves between folders, not into an object store")
        there = housekeeping.move(storage, run, Path(target), files.say, args.trust_record)
        files.emit(json.dumps({"moved": str(there)}) if args.json else f"moved to {there}")
    else:
        found = listed(args.storage or "runs", args.trust_record)
        rows = [asdict(one) for one in found]
        files.emit(json.dumps(rows) if args.json else "\n".join(lines(found, time.time())))
    return 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise ValueError("nobody to ask: give --yes to delete it")
    files.say("delete it? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def lines(found: Sequence[Listed], now: float) -> list[str]:
    """The list for people: two lines for each run, and one for one that cannot be read."""
    if not found:
        return ["there is no run here"]
    width, shown = max(len(one.name) for one in found), list[str]()
    for one in found:
        head = f"{one.name:<{width}}  {one.state:<10}  {_size(one.disk):>8}  {_age(now, one.last):>8}"
        if one.error:
            shown.append(f"{head}  {one.error}")
            continue
        best = one.best
        score = f"{best['score']:.4f} {one_line(best['what'])} (search)" if best else "no best"
        verdict = one_line(one.verdict) if one.verdict else "no verdict"
        shown.append(f"{head}  {score}; {verdict}")
        tags = ", ".join(f"{name}={value}" if value else name for name, value in one.tags.items())
        words = [_cut(one.question), _cut(one.notes), f"[{tags}]" if tags else "", *one.doubts]
        if any(words):
            shown.append(f"    {one_line(' · '.join(filter(None, words)))}")
    return shown


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= QUESTION else line[: QUESTION - 1] + "…"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _age(now: float, then: float | None) -> str:
    if then is None:
        return "-"
    seconds = max(0.0, now - then)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _comparison(runs: Sequence[Listed], found: Comparison) -> list[str]:
    shown = []
    for letter, one in zip("AB", runs, strict=True):
        best = f"best {one.best['score']:.4f} {one.best['what']} (search)" if one.best else "no best"
        shown.append(f"{letter}  {one.name}: {one.state}; {best}; {one.verdict or 'no verdict'}")
        shown += [f"   {arm}: {words}" for arm, words in one.told.items()]
    shown += ["settings that differ" if found.settings else "settings: the same"]
    shown += map(_change, found.settings)
    if found.circumstances:
        shown += ["code, libraries and machine", *map(_change, found.circumstances)]
    if found.differences:
        shown.append(f"B - A on the seeds that both have, negative is better ({across.EXPLORATION})")
    for one in found.differences:
        interval = "" if one.interval is None else f", 95 % {one.interval[0]:+.4f} to {one.interval[1]:+.4f}"
        p = "" if one.p is None else f", p {one.p:.3g}" + ("" if one.flip is None else f", sign flip {one.flip:.3g}")
        pairs = f"{len(one.seeds)} pair{'s'[len(one.seeds) == 1 :]}"
        alike = "the same settings" if one.same else "other settings"
        said = f"{interval}{p}" + "".join(
            f"; not tested: {why} on seed{'s'[len(seeds) == 1 :]} {', '.join(map(str, seeds))}"
            for why, seeds in (("a stuck run", one.stuck), ("the same run", one.alike))
            if seeds
        )
        shown.append(f"  {one.stage} {one.what} ({alike}): {one.metric} {one.mean:+.4f}, {pairs}{said}")
    shown += [f"caution: {found.doubt}"] if found.doubt else []
    shown += [f"not compared: {line}" for line in found.apart]
    return [one_line(line) if not line.startswith(" ") else f"  {one_line(line)}" for line in shown]


def _change(one: Change) -> str:
    first, second = (_value(value) for value in (one.first, one.second))
    return f"  {one.path}: {first} -> {second}"


def _value(value: Any) -> str:
    """A value in a comparison; `-` where a run has none."""
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 2 * QUESTION else text[: 2 * QUESTION - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
