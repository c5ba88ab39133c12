"""The confirmation: which arms meet on which fresh seeds, and what of that is run. Made from the journal alone.

A look declares its arms and seeds before its first run. Every arm runs on every seed at full length, judged on the
part that no search has seen. Arms that racing drops for futility run no further. With `confirm.until: decided`, the
arms that a look has settled run no further either: they keep its verdict.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sweeper.confirmation import looks
from sweeper.confirmation import verdicts as verdicts_module
from sweeper.confirmation.paired_tests import ALPHA
from sweeper.journal import warm_start
from sweeper.journal.budget import Common
from sweeper.journal.events import Family, Verdict
from sweeper.journal.journal import Journal, TrialRecord

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

STAGE = "confirm"
CHAMPION = "champion"
DIVERGED = "diverged"
APART = "budget not matched"
ALONE = "no arm but the baseline kept to the budget: there is nothing to confirm"

Params = dict[str, Any]


def metric(spec: SweepSpec) -> str:
    """The metric that decides a verdict: the objective on the part `test`."""
    return "test/" + spec.objective.partition("/")[2]


def rule(spec: SweepSpec, comparisons: int = 1) -> verdicts_module.Rule:
    """The rule that the spec declares. The levels of several looks depend on how many comparisons Holm adjusts for."""
    declared = spec.confirm
    levels = looks.levels(spec.looks, declared.spending, ALPHA, comparisons) if len(spec.looks) > 1 else ()
    return verdicts_module.Rule(declared.worthwhile, declared.margin, levels=levels)


def select_candidates(spec: SweepSpec, journal: Journal) -> dict[str, Params]:
    """Label -> settings by path: the baseline, then the best configurations of the search, the best first.

    Under method arms all arms that kept to the baseline's budget, in their order; if confirm.best asks for fewer, the
    best of the search, if there was one. Raises ValueError in one line if there is nothing to compare.
    """
    baseline = spec.baseline
    if baseline is None:
        raise ValueError("there is no baseline to confirm against: name an arm")
    searched = [record for record in journal.stage("search") if record.state == "completed"]
    if spec.total_trials and not searched:
        raise ValueError("no trial of the search completed")
    common = Common.of(spec, journal.stage("search"))
    kept = [record for record in searched if common.kept(record)]
    if spec.search.method == "arms":
        left = {record.ask.arm for record in searched} - {record.ask.arm for record in kept}
        others = [name for name in spec.comparable if name != baseline and name not in left]
        if not others:
            raise ValueError(ALONE)
        if len(others) > spec.compared:
            by_arm = {name: [record for record in kept if record.ask.arm == name] for name in others}
            others = sorted(others, key=lambda name: _mean(by_arm[name], spec.objective))[: spec.compared]
        return {name: spec.arms[name] for name in (baseline, *others)}
    asked = (record.ask.config_hash for record in journal.stage("search") if record.ask.arm == baseline)
    own = next(asked, "") or (spec.stub is None and _hash(spec, spec.arms[baseline]))
    by_hash = defaultdict[str, list[TrialRecord]](list)
    for record in kept:
        by_hash[record.ask.config_hash].append(record)
    ranked = sorted(by_hash.items(), key=lambda item: _mean(item[1], spec.objective))
    best = [records[0] for found, records in ranked if found != own][: spec.compared]
    if not best:
        which = "completed" if len(kept) == len(searched) else "completed within the budget"
        raise ValueError(f"no configuration but the baseline {which}: there is nothing to confirm")
    return {baseline: spec.arms[baseline], **{record.ask.arm or record.id: record.ask.params for record in best}}


def _hash(spec: SweepSpec, params: Params) -> str:
    return spec.config_hash(spec.trainable_config(params))


def _mean(records: Sequence[TrialRecord], objective: str) -> float:
    scores = [score for record in records if (score := record.score(objective)) is not None]
    return fmean(scores) if scores else float("inf")


def searched(spec: SweepSpec, journal: Journal) -> bool:
    """Whether nothing of the search is left to run."""
    records = journal.stage("search")
    asked = len(records) >= spec.total_trials or journal.over("search") is not None
    return asked and not any(record.open for record in records)


def of_search(spec: SweepSpec, journal: Journal) -> int:
    """Trials of the search, as far as known: it may have ended early, or have started under another version."""
    begun = len(journal.stage("search"))
    return begun if journal.over("search") is not None else max(begun, spec.total_trials)


def finished(spec: SweepSpec, journal: Journal) -> bool:
    """Whether nothing is left to run, and the last look has its verdict."""
    if not searched(spec, journal):
        return False
    families = journal.families()
    if not families:
        return why_no_confirmation(spec, journal) is not None
    verdict = journal.verdict()
    judged = complete(spec, journal) and verdict is not None and verdict["look"] == len(families)
    return judged and following(spec, journal) is None


def expected(spec: SweepSpec, journal: Journal) -> int:
    """Trials of the search and of the confirmation, as far as known."""
    if journal.families():
        return of_search(spec, journal) + len(runs(spec, journal))
    done = searched(spec, journal) and why_no_confirmation(spec, journal)
    return of_search(spec, journal) + (0 if done else spec.confirm_trials)


def why_no_confirmation(spec: SweepSpec, journal: Journal) -> str | None:
    """Why there is no confirmation after this search, in a line; None if there is one."""
    if not spec.compared:
        alone = len(spec.comparable) == 1 < len(spec.arms) and len(spec.seeds.confirm) > 1
        return f"no confirmation: {ALONE if alone else 'it needs arms and two seeds or more in seeds.confirm'}"
    try:
        select_candidates(spec, journal)
    except ValueError as error:
        return f"no confirmation: {error}"
    return None


def declared(spec: SweepSpec, journal: Journal, *, fresh: bool, earlier: int, champion: Params | None = None) -> Family:
    """The first look's family. champion: settings of the standing champion, which becomes one more arm."""
    arms = select_candidates(spec, journal)
    label = None
    if champion is not None:
        own = _hash(spec, champion)
        other = CHAMPION if CHAMPION not in arms else f"standing-{CHAMPION}"  # a spec may name an arm so
        label = next((name for name, params in arms.items() if _hash(spec, params) == own), other)
        arms.setdefault(label, champion)
    return Family(
        look=1,
        baseline=next(iter(arms)),
        arms=arms,
        seeds=list(spec.seeds.confirm[: spec.looks[0]]),
        racing=spec.confirm.racing,
        fresh=fresh and not warm_start.seeds(journal.warm_starts()) & {*spec.seeds.confirm},
        earlier=earlier,
        champion=label,
        baseline_first=True,
    )


def following(spec: SweepSpec, journal: Journal) -> Family | None:
    """The next declared look, after the verdict of the last one; None if all looks were taken or all is settled."""
    last, verdict = journal.families()[-1], journal.verdict()
    if verdict is None or verdict["look"] < last.look:
        return None  # the last one is not over
    if last.look >= len(spec.looks) or not unsettled(spec, journal):
        return None
    seeds = spec.seeds.confirm[spec.looks[last.look - 1] : spec.looks[last.look]]
    return replace(last, look=last.look + 1, seeds=list(seeds), time=time.time())


def unsettled(spec: SweepSpec, journal: Journal) -> list[str]:
    """The arms that a further look would run, beside the baseline."""
    family = journal.families()[-1]
    gone = {*settled(spec, journal, family.look + 1), *dropped(spec, journal, family)}
    return [label for label in family.arms if label not in gone and label != family.baseline]


def settled(spec: SweepSpec, journal: Journal, look: int) -> dict[str, dict[str, Any]]:
    """Label -> its comparison as the journal has it, of the arms that looks before this one settled.

    Empty if the spec has a single look: then a further one runs all arms again.
    """
    if spec.confirm.until is None:
        return {}
    verdict = next((one for one in verdicts(journal) if one["look"] == look - 1), {"comparisons": ()})
    return {one["arm"]: one for one in verdict["comparisons"] if one["arm"] in verdict["settled"]}


def verdicts(journal: Journal) -> list[dict[str, Any]]:
    """What the looks said so far, in order."""
    return [event.data for event in journal.events if isinstance(event, Verdict)]


def further(spec: SweepSpec, journal: Journal, number: int, used: set[int]) -> Family:
    """One more look at the same arms, on that many unused seeds."""
    last = journal.families()[-1]
    taken = used | {record.ask.seed for record in journal.trials.values()} | {*spec.seeds.search, *spec.seeds.confirm}
    taken |= warm_start.seeds(journal.warm_starts())
    begin = max(taken) + 1
    return replace(last, look=last.look + 1, seeds=[*range(begin, begin + number)], fresh=True, time=time.time())


def schedule(family: Family, dropped: Sequence[str] = ()) -> list[tuple[str, int]]:
    """(label, seed) of a look in order; dropped arms are left out after the first look's racing pairs.

    The baseline runs on all seeds first, so that the other arms start where it was; with racing, on those of the racing
    pairs first. Families of earlier versions run seed by seed.
    """
    racing = family.look == 1 and (family.racing or not family.baseline_first)
    first = verdicts_module.RACING_PAIRS if racing else 0
    runs = list[tuple[str, int]]()
    for seeds, gone in ((family.seeds[:first], ()), (family.seeds[first:], dropped)):
        arms = [label for label in family.arms if label not in gone]
        blocks = [[family.baseline], [label for label in arms if label != family.baseline]]
        for block in blocks if family.baseline_first else [arms]:
            runs += [(label, seed) for seed in seeds for label in block]
    return runs


def losses(
    spec: SweepSpec, journal: Journal, family: Family, name: str | None = None
) -> dict[str, dict[int, float | None]]:
    """Label -> seed -> loss; None for a run that diverged, and no entry for one that failed for another reason.

    name: of another metric, such as a task's score.
    """
    found: dict[str, dict[int, float | None]] = {label: {} for label in family.arms}
    for record in journal.stage(STAGE):
        label = str(record.ask.arm)
        if label not in found or record.open:
            continue
        if record.state == "completed" and (loss := record.score(name or metric(spec))) is not None:
            found[label][record.ask.seed] = loss
        elif DIVERGED in ((record.end and record.end.reason) or ""):
            found[label][record.ask.seed] = None
    return found


def dropped(spec: SweepSpec, journal: Journal, family: Family) -> list[str]:
    """The arms that racing dropped at the first look, after its first pairs."""
    if not family.racing:
        return []
    first = set(journal.families()[0].seeds[: verdicts_module.RACING_PAIRS])
    early = {
        label: {seed: loss for seed, loss in by.items() if seed in first}
        for label, by in losses(spec, journal, family).items()
    }
    # The standing champion stays to be challenged.
    return [label for label in verdicts_module.futile(early, family.baseline, rule(spec)) if label != family.champion]


def racing_complete(journal: Journal) -> bool:
    """Whether all runs that racing needs have ended."""
    family = journal.families()[0]
    early = set(schedule(family)[: len(family.arms) * verdicts_module.RACING_PAIRS])
    ended = {(record.ask.arm, record.ask.seed) for record in journal.stage(STAGE) if not record.open}
    return early <= ended


def complete(spec: SweepSpec, journal: Journal) -> bool:
    """Whether nothing of the declared looks is left to run."""
    records = journal.stage(STAGE)
    return len(records) >= len(runs(spec, journal)) and not any(record.open for record in records)


def runs(spec: SweepSpec, journal: Journal) -> list[tuple[str, int]]:
    """(label, seed) of every run of the looks declared so far, in order; not of arms known to be dropped or settled."""
    raced = racing_complete(journal)
    families = journal.families()
    found = list[tuple[str, int]]()
    for one in families:
        gone = [*settled(spec, journal, one.look), *(dropped(spec, journal, one) if raced else ())]
        found += schedule(one, gone)
    return found
