"""What of a submission is there, what is missing, and what only a person can answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainables.entry.form import PASSES, Answer, Facts
from trainables.entry.runs import Chosen
from trainables.evaluation import rules
from trainables.settings import word_amounts

if TYPE_CHECKING:
    from trainables.evaluation.official import Official

State = Literal["there", "missing", "person"]
OVER = 0.002  # share by which a run may pass a number of words with the step that reaches it
SHOWN = 4  # names in a line


@dataclass(frozen=True)
class Item:
    """A line of the checklist. note: what is there, or what to do."""

    what: str
    state: State
    note: str


def required(seen: int | None) -> list[str]:
    """The revisions that the strict-small track asks for: up to as many words as the model saw, all if unknown."""
    marks = zip(rules.WORDS, rules.CHECKPOINTS, strict=True)
    return [name for count, name in marks if seen is None or count <= seen]


def items(chosen: Chosen, found: Facts, form: Sequence[Answer], judged: Official | None) -> list[Item]:
    """The checklist. judged: by the challenge's tasks, None if no data of theirs were given."""
    seen = found.whole("words")
    return [
        Item("model and tokenizer", "there", "in main/, loaded by AutoModelForMaskedLM without code of its own"),
        _chosen(chosen),
        *(Item("caution", "person", line) for line in chosen.cautions),
        *_revisions(chosen, seen),
        *_limits(found, seen, form),
        *_predictions(judged, len(required(seen))),
        *_form(form),
        *_persons(),
    ]


def _chosen(chosen: Chosen) -> Item:
    if chosen.exploration:
        why = "a score of a search is exploration; a confirmation on fresh seeds would name a champion"
        note = f"{chosen.why}: {why}"
        return Item("choice of the run", "person", note)
    return Item("choice of the run", "there", chosen.why)


def _revisions(chosen: Chosen, seen: int | None) -> Iterator[Item]:
    wanted = required(seen)
    missing = [name for name in wanted if name not in chosen.series]
    trained = "unknown" if seen is None else f"{seen:,}"
    if not wanted:
        note = f"none is asked for below {rules.WORDS[0]:,} words, and the run saw {trained}"
        yield Item("revisions of the track", "missing", f"{note}: train longer")
    elif missing:
        note = f"{len(wanted) - len(missing)} of {len(wanted)} for {trained} words seen; {_listed(missing)} are missing"
        yield Item("revisions of the track", "missing", f"{note}: train with `series: published`")
    else:
        yield Item("revisions of the track", "there", f"all {len(wanted)} for {trained} words seen: {_listed(wanted)}")
    if seen is not None and wanted and len(wanted) < len(rules.CHECKPOINTS):
        rest = f"the track has {len(rules.CHECKPOINTS)}, up to {word_amounts.text(rules.WORDS[-1])} words"
        yield Item("length", "person", f"{rest}; a shorter run hands in those that it reached")
    others = [name for name in chosen.series if name not in rules.CHECKPOINTS]
    if others:
        yield Item("further checkpoints", "there", f"{_listed(others)}: the challenge does not ask for these")


def _limits(found: Facts, seen: int | None, form: Sequence[Answer]) -> Iterator[Item]:
    """What the track allows, against the record."""
    passes = next((answer.value for answer in form if answer.question == PASSES), None)
    for what, count, most in (
        ("words of the corpus", found.corpus_words, rules.CORPUS_WORDS),
        ("words seen", seen, rules.SEEN_WORDS),
        (PASSES, passes if isinstance(passes, int | float) else None, rules.PASSES),
    ):
        if count is None:
            yield Item(what, "person", f"not on record; the strict-small track allows {most:,}")
        elif count > most * (1 + OVER):
            yield Item(what, "missing", f"{count:,}, and the strict-small track allows {most:,}")
        elif count > most:
            note = f"{count:,}, a little over the {most:,} of the strict-small track, as a run ends with a whole step"
            yield Item(what, "person", note)
        else:
            yield Item(what, "there", f"{count:,} of the {most:,} that the strict-small track allows")
    if found.config is not None and found.config.init_from is not None:
        note = "training began with another bundle's weights: what that run saw counts as well, and is not counted here"
        yield Item("words seen before", "person", note)


def _predictions(judged: Official | None, wanted: int) -> Iterator[Item]:
    if judged is None:
        note = "give the challenge's data by --task official=DIR, the folder with full_eval and fast_eval"
        yield Item("predictions", "missing", note)
        return
    notes = list(judged.notes)
    for key, label in rules.COLUMNS.items():
        begins = f"{label} has no score: "
        why = next((note for note in notes if note.startswith(begins)), begins)
        notes = [note for note in notes if note != why]
        if judged.columns.get(key) is None:
            note = why.removeprefix(begins) or "not asked for: --columns leaves it out"
            yield Item(f"predictions, {label}", "missing", note)
        else:
            yield Item(f"predictions, {label}", "there", "in predictions.json")
    yield _fast(judged.submission.get("fast_eval_results") or {}, wanted)
    for note in notes:
        yield Item("the challenge's data", "missing", note)


def _fast(results: Mapping[str, Sequence[Any]], wanted: int) -> Item:
    """The fast evaluation of the revisions; results: by task, None for a revision that was not evaluated."""
    done = {key: sum(one is not None for one in scores) for key, scores in results.items()}
    lacking = sorted(key for key, count in done.items() if count < wanted)
    note = f"{min(done.values(), default=0)} of {wanted} revisions by every task"
    if wanted and done and not lacking:
        return Item("fast evaluation of the revisions", "there", note)
    which = f", lacking {_listed(lacking)}" if lacking else ""
    return Item("fast evaluation of the revisions", "missing", note + which)


def _form(form: Sequence[Answer]) -> Iterator[Item]:
    for answer in form:
        if answer.value is None:
            note = f"not on record{': ' * bool(answer.note)}{answer.note}"
            yield Item(f"form, {answer.question}", "person", note)
    filled = sum(answer.value is not None for answer in form)
    yield Item("form, from the record", "there", f"{filled} of {len(form)} answers")


def _persons() -> Iterator[Item]:
    asked = {
        "repository": "create it on the hub and push main and every revision as a branch: see below",
        "track": "this folder is made for strict-small; other tracks ask for other revisions",
        "data": "if the corpus is not the challenge's own, describe where it comes from and under which licence",
        "other models": "say whether any other model, tagger or annotation was used to make or choose the data",
        "tuning": "say how the hyper-parameters were chosen, and on which data",
        "authors and paper": "names, contact and the paper that goes with the entry",
        "licence": "choose one for the model; the card has none",
        "upload": "the predictions file and the form, by their deadline",
    }
    for what, note in asked.items():
        yield Item(what, "person", note)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + f" … {names[-1]}" * (len(names) > SHOWN)
