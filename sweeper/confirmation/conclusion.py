"""What came of a look of the confirmation: its verdicts over the seeds of all looks so far, and what else to know."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.confirmation import task_verdicts
from sweeper.confirmation import verdicts as verdicts_module
from sweeper.confirmation.design import APART, STAGE, dropped, losses, metric, rule, settled, verdicts
from sweeper.confirmation.documents import Sums
from sweeper.journal import budget, checkpoints, learned, tasks, verdict_text
from sweeper.journal.budget import Common
from sweeper.journal.events import Family
from sweeper.journal.journal import Journal
from sweeper.system.markdown import between, number
from sweeper.trainable import FEW_DOCUMENTS, Trainable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

NOT_FRESH = "not fresh: earlier runs on this data used some of these seeds, or MLflow could not be reached"


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
