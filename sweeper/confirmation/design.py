"""The confirmation: which arms meet on which fresh seeds, and what came of it. Made from the journal alone.

A look declares its arms and seeds before its first run. Every arm runs on every seed at full length, judged on the
part that no search has seen. Arms that racing drops for futility run no further. With `confirm.until: decided`, the
arms that a look has settled run no further either: they keep its verdict.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.confirmation import looks, task_verdicts
from sweeper.confirmation import verdicts as verdicts_module
from sweeper.confirmation.documents import Sums
from sweeper.confirmation.paired_tests import ALPHA
from sweeper.journal import budget, checkpoints, learned, tasks, verdict_text, warm_start
from sweeper.journal.budget import Common
from sweeper.journal.events import Family, Verdict
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.system.markdown import between, number
from sweeper.trainable import FEW_DOCUMENTS, Trainable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

STAGE = "confirm"
CHAMPION = "champion"
DIVERGED = "diverged"
APART = "budget not matched"
NOT_FRESH = "not fresh: earlier runs on this data used some of these seeds, or MLflow could not be reached"
ALONE = "no arm but the baseline kept to the budget: there is nothing to confirm"

Params = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class VerdictData:
    """The verdict of a look, over the seeds of all looks so far.

    Args:
        looks: all looks, also those to come, each with `pairs`, `alpha` and `declared`; None if the spec has one look.
        settled: arm -> the look that settled it; None if the spec has one look.
        metric: the metric that decides, in nats.
        baseline: the arm that all others are compared with.
        alpha: the level of this look.
        rule: the rule in words.
        seeds: of all looks so far.
        fresh: whether no earlier run on this data had used them.
        earlier: confirmations in the tracking store against the same baseline.
        comparisons: a `verdicts.Comparison` of each arm, as a dict.
        told: arm -> its verdict as people read it.
        documents: arm -> the interval over documents alone, if known.
        champion: the best confirmed arm.
        challenge: the result against the standing champion, if there is one: see `events.ChallengeSaid`.
        judged: the trainable's lines on the data that judges.
        unlearned: the trainable's words on a baseline that learned too little.
        notes: what else a reader must know, a sentence each.
        tasks: the verdicts on tasks, which are secondary: `alpha`, `rule`, and in `comparisons` a
            `task_verdicts.TaskComparison` of each task and arm, as a dict; None if no task is declared.
    """

    look: int
    looks: list[dict[str, Any]] | None
    settled: dict[str, int] | None
    metric: str
    baseline: str
    alpha: float
    rule: list[str]
    worthwhile: float
    margin: float
    seeds: list[int]
    fresh: bool
    earlier: int
    comparisons: list[dict[str, Any]]
    told: dict[str, str]
    documents: dict[str, list[float]]
    champion: str | None
    challenge: dict[str, Any] | None
    judged: list[str]
    unlearned: str | None
    notes: list[str]
    tasks: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """As the journal's `Verdict` keeps it: without `looks` and `settled` if the spec has one look, or `tasks`."""
        absent = [key for key in ("looks", "settled", "tasks") if getattr(self, key) is None]
        return {key: value for key, value in vars(self).items() if key not in absent}


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


def optimistic(confirmed: int) -> str:
    """The note on a champion that is the best of so many."""
    return f"the champion is the best of {confirmed} confirmed, so its estimate is optimistic"


def conclude(spec: SweepSpec, journal: Journal, run_dir: Path) -> VerdictData:
    """The verdicts of the last look, over the seeds of all looks so far."""
    families = journal.families()
    family, look = families[-1], len(families)
    found, gone = losses(spec, journal, family), dropped(spec, journal, family)
    strayed = _strayed(spec, journal, family)
    found |= {label: {} for label in strayed}  # they stay among the declared comparisons, and are not compared
    documents, few = _documents(journal, run_dir)
    kept = settled(spec, journal, look)
    declared = rule(spec, len(family.arms) - 1)
    asked: dict[str, Any] = {"look": look, "documents": documents}
    asked["stuck"] = learned.by_arm(spec, journal.stage(STAGE))
    result = verdicts_module.verdicts(found, family.baseline, declared, **asked, dropped=[*gone, *kept])
    notes = [f"{family.earlier} earlier confirmations against this baseline are in the tracking store"]
    if not all(one.fresh for one in families):
        notes.append(NOT_FRESH)
    if reason := missing_metric_note(spec, journal):
        notes.append(reason)
    if few is not None:
        notes.append(f"no interval over documents: the test part has {few}, fewer than {FEW_DOCUMENTS}")
    notes += common_starts(spec, family)
    apart = dict.fromkeys([*strayed, *(name for name in spec.arms if name not in spec.comparable)])
    notes += [f"{label} did not keep to the baseline's budget: it is not compared" for label in apart]
    notes += [text] if (text := budget.differ(spec, journal.stage(STAGE))) else []
    comparisons = [kept.get(one.arm) or asdict(one) for one in result.comparisons]
    labels = {one.arm: APART if one.arm in strayed else one.label for one in result.comparisons}
    earlier = verdicts(journal)[look - 2]["told"] if kept else {}
    labels |= {label: APART if label in strayed else earlier[label] for label in kept}
    confirmed = sorted((one for one in comparisons if one["verdict"] == "confirmed"), key=lambda one: one["mean"])
    others = len(confirmed)
    if others > 1:
        notes.append(optimistic(others))
    looked = _looked(spec, journal, declared, comparisons, strayed)
    challenge = None
    if family.champion and not verdict_text.going_on({"look": look, **looked, "comparisons": comparisons}):
        met, ended = {**asked, "dropped": gone}, looked.get("settled", {})
        challenge = _challenge(family, found, declared, [one["arm"] for one in confirmed], met, ended)
    notes += [challenge["said"]] if challenge else []
    sections = sorted({path.partition(".")[0] for path in spec.space})
    if len(sections) > 1:
        notes.append(f"the space spans {' and '.join(sections)}: the baseline was tried at one point of it, not tuned")
    return VerdictData(
        look=look,
        looks=looked.get("looks"),
        settled=looked.get("settled"),
        metric=metric(spec),
        baseline=family.baseline,
        alpha=result.alpha,
        rule=[*result.rule.words(len(result.comparisons), look), *_beside(result)],
        worthwhile=result.rule.worthwhile,
        margin=result.rule.margin,
        seeds=[seed for one in families for seed in one.seeds],
        fresh=all(one.fresh for one in families),
        earlier=family.earlier,
        comparisons=comparisons,
        told=labels,
        documents={one["arm"]: list(one["documents"]["interval"]) for one in comparisons if one.get("documents")},
        champion=confirmed[0]["arm"] if confirmed else None,
        challenge=challenge,
        judged=list(journal.facts().get("judged", ())),
        unlearned=learned.unlearned(spec, journal.stage(STAGE)),
        notes=notes[0 if family.earlier else 1 :],
        tasks=_tasks(spec, journal, family, [*gone, *kept, *strayed], asked["stuck"]),
    )


def _tasks(
    spec: SweepSpec, journal: Journal, family: Family, gone: Sequence[str], stuck: verdicts_module.Stuck | None
) -> dict[str, Any] | None:
    """The verdicts on tasks at the last look; those of arms that a look before this one settled are of that look.

    gone: the arms that are not compared at this look.
    """
    names, arms = tasks.scores(journal), len(family.arms) - 1
    if not names:
        return None
    look, strayed = len(journal.families()), _strayed(spec, journal, family)
    found = {name: losses(spec, journal, family, name) | {label: {} for label in strayed} for name in names}
    alpha = rule(spec, len(names) * arms).level(look)
    before = next((one.get("tasks") for one in reversed(verdicts(journal)) if one["look"] == look - 1), None) or {}
    ended = [arm for arm in settled(spec, journal, look) if arm not in strayed]
    kept = {(one["metric"], one["arm"]): one for one in before.get("comparisons", ()) if one["arm"] in ended}
    compared = [
        replace(one, why=APART) if one.arm in strayed else one
        for one in task_verdicts.task_verdicts(found, family.baseline, alpha, gone, stuck)
    ]
    return {
        "alpha": alpha,
        "rule": task_verdicts.rule(len(names), arms, alpha),
        "comparisons": [kept.get((one.metric, one.arm)) or asdict(one) for one in compared],
    }


def common_starts(spec: SweepSpec, family: Family) -> list[str]:
    """What is compared, in a sentence for each length of the runs' common start; none if the trainable tells of none.

    Where arms are the same run as the baseline up to a step, their difference is the effect of the rule after it.
    """
    if spec.stub is not None or (past := Trainable.load(spec.trainable).past) is None:
        return []
    own = spec.settings(family.arms[family.baseline])
    arms = defaultdict[int, list[str]](list)
    for label, params in family.arms.items():
        settings = spec.settings(params)
        shared = [step for step in {own.warmup_steps, settings.warmup_steps} if step]
        same = [step for step in shared if (found := past(settings, step)) is not None and found == past(own, step)]
        if label != family.baseline:
            arms[max(same, default=0)].append(label)
    return [
        f"{', '.join(labels)}: the same run as {family.baseline} for the first {step:,} of {own.steps:,} steps, so the "
        "difference is the effect of the rule after such a start"
        for step, labels in sorted(arms.items())
        if step
    ]


def _looked(
    spec: SweepSpec,
    journal: Journal,
    declared: verdicts_module.Rule,
    comparisons: Sequence[Mapping[str, Any]],
    apart: list[str],
) -> dict[str, Any]:
    """All looks, also those to come, each with its pairs and its level; and which look settled which arms.

    An arm is settled for good only with `confirm.until: decided`; without it this is empty.
    """
    if spec.confirm.until is None:
        return {}
    families = journal.families()
    pairs = [*spec.looks, *(0 for _ in families[len(spec.looks) :])]
    for index, family in enumerate(families[len(spec.looks) :], len(spec.looks)):
        pairs[index] = pairs[index - 1] + len(family.seeds)
    before = {label: look for one in verdicts(journal) for label, look in one["settled"].items()}
    # More seeds do not decide a comparison that a stuck run left open.
    kept = [one for one in comparisons if one["verdict"] != "dropped"]
    hopeless = [one["arm"] for one in kept if one.get("stuck") or one.get("baseline_stuck")]
    ended = [one["arm"] for one in kept if one["verdict"] != "inconclusive"] + hopeless
    return {
        "looks": [
            {"pairs": n, "alpha": declared.level(look), "declared": look <= len(spec.looks)}
            for look, n in enumerate(pairs, 1)
        ],
        "settled": dict.fromkeys([*ended, *apart], len(families)) | before,
    }


def _strayed(spec: SweepSpec, journal: Journal, family: Family) -> list[str]:
    """The arms of a look that did not keep to the baseline's budget."""
    common = Common.of(spec, journal.stage(STAGE))
    left = {str(one.ask.arm) for one in journal.stage(STAGE) if not common.kept(one)}
    return [label for label in family.arms if label in left and label != family.baseline]


def missing_metric_note(spec: SweepSpec, journal: Journal) -> str | None:
    """A line if runs completed without the metric that decides a verdict; None if all reported it."""
    done = [record for record in journal.stage(STAGE) if record.state == "completed"]
    mute = [record for record in done if record.score(metric(spec)) is None]
    if not mute:
        return None
    return (
        f"{len(mute)} of {len(done)} completed runs did not report {metric(spec)} with their last row and do not "
        f"count: {spec.trainable} must report it if context.test is true"
    )


def _beside(result: verdicts_module.Verdicts) -> list[str]:
    """The parts of the rule that are not about the tests over seeds."""
    first = "no worthwhile difference is judged for each arm by itself: of many arms, one may get it by luck"
    lines = [first]
    if any(one.documents for one in result.comparisons):
        lines.append(
            "the same must hold over seeds and documents together, by t after Holm or by the interval, else it is "
            "inconclusive"
        )
    if any(one.stuck is not None for one in result.comparisons):
        lines.append(
            "a comparison with a stuck run is inconclusive, whatever the tests say: no mean may hide such a run"
        )
    return lines


def _challenge(
    family: Family,
    found: verdicts_module.Losses,
    declared: verdicts_module.Rule,
    confirmed: Sequence[str],
    asked: Mapping[str, Any],
    settled: Mapping[str, int],
) -> dict[str, Any] | None:
    """Whether a confirmed arm is confirmed against the standing champion, too: by the same rule, on the same pairs.

    At the level of the look in which the pairs last grew: a later look has no new pairs of them. None if no other arm
    is confirmed, and if the champion is the baseline itself. The key `crowned` holds the arm that takes its place.

    Args:
        found: the losses, by arm and seed.
        declared: the spec's rule.
        confirmed: the arms confirmed against the baseline, the best first.
        asked: keyword arguments of `verdicts.verdicts` at the last look.
        settled: arm -> the look that settled it, if there are several looks.
    """
    standing = str(family.champion)
    challengers = [arm for arm in confirmed if arm != standing]
    if not challengers or standing == family.baseline:
        return None
    # All declared arms stay among the comparisons, so that the best of them is not favoured.
    arms = {arm: by for arm, by in found.items() if arm != family.baseline}
    against = list[verdicts_module.Comparison]()
    for arm in challengers:
        grew = min(settled.get(name, asked["look"]) for name in (arm, standing))
        met = verdicts_module.verdicts(arms, standing, declared, **{**asked, "look": grew})
        against += [one for one in met.comparisons if one.arm == arm]
    better = sorted((one for one in against if one.verdict == "confirmed"), key=lambda one: one.mean or 0.0)
    beaten = [one.arm for one in better]
    listed = "; ".join(f"{one.arm}: {one.label}, {number(one.mean, '+')}, {between(one.interval)}" for one in against)
    text = "stays: no arm is confirmed against it"
    if beaten:
        text = f"is replaced by {beaten[0]}, which is confirmed against it, too"
    return {
        "champion": standing,
        "comparisons": [asdict(one) for one in against],
        "crowned": beaten[0] if beaten else None,
        "said": f"the standing champion, {standing}, {text} ({listed})",
    }


def _documents(journal: Journal, run_dir: Path) -> tuple[Sums, int | None]:
    """The losses of every run by document, if bundles have them; and the number of documents, if that is too few."""
    sums: dict[str, dict[int, Any]] = {}
    for record in journal.stage(STAGE):
        checkpoint = record.end.checkpoint if record.end else None
        bundle = checkpoints.bundle(run_dir, checkpoint)
        path = bundle / "analysis" / "documents.json" if bundle else None
        if record.state == "completed" and path and path.exists():
            content = json.loads(path.read_text("utf-8"))
            by_seed = sums.setdefault(str(record.ask.arm), {})
            by_seed[record.ask.seed] = np.array([content["loss"], content["predictions"]])
    counts = [np.count_nonzero(each[1]) for by_seed in sums.values() for each in by_seed.values()]
    few = min(counts, default=FEW_DOCUMENTS)
    return ({}, int(few)) if few < FEW_DOCUMENTS else (sums, None)
