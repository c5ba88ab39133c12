"""A paragraph for a paper: how the verdict was reached, from what the spec declared and what ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.confirmation import design
from sweeper.confirmation.paired_tests import ALPHA, GUARD, PAIRS
from sweeper.confirmation.verdicts import RACING_PAIRS, Rule
from sweeper.journal import recorded, warm_start
from sweeper.journal.budget import Common
from sweeper.journal.events import Family, Session
from sweeper.journal.journal import Journal
from sweeper.journal.names import Names
from sweeper.report.setup import trained
from sweeper.report.tables import OTHER_LETTERS, escape
from sweeper.spec import conditions
from sweeper.spec.early_stopping import Halving
from sweeper.spec.hints import confidence
from sweeper.system.files import one_line
from sweeper.system.markdown import text
from sweeper.system.secrecy import redact
from sweeper.trainable import BEGAN

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

NAMED = 8  # arms, or settings, in a sentence
SAMPLERS = {
    "tpe": "a multivariate tree-structured Parzen estimator (Optuna)",
    "random": "random search (Optuna)",
    "gp": "Bayesian optimisation with a Gaussian process (Optuna)",
    "cmaes": "CMA-ES (Optuna)",
}
SPENDING = {"obrien_fleming": "an O'Brien-Fleming", "pocock": "a Pocock"}


def methods(spec: SweepSpec, journal: Journal) -> str:
    """The paragraph as plain text in one line. It may hold a stranger's words: they are not yet escaped."""
    names = Names(spec, (record.ask for record in journal.trials.values()))
    parts = [*_search(spec, journal), *_began(journal), *_budget(spec, journal)]
    parts += _confirmation(spec, journal, names) if journal.families() else _unconfirmed(spec, journal)
    parts += [
        *_taken_over(journal),
        *_software(spec, journal),
        *(f"Caution: {line.rstrip('.')}." for line in journal.doubts()),
    ]
    return redact(one_line(" ".join(parts)))


def section(spec: SweepSpec, journal: Journal) -> str:
    """The paragraph in Markdown."""
    return text(methods(spec, journal))


def tex(spec: SweepSpec, journal: Journal) -> str:
    """The paragraph in LaTeX."""
    return f"% how the verdict was reached\n{OTHER_LETTERS}\n{escape(methods(spec, journal))}\n"


def _search(spec: SweepSpec, journal: Journal) -> Iterator[str]:
    searched = journal.stage("search")
    if not searched:
        if spec.total_trials:
            yield "No trial of the search has started."
        else:
            yield f"There was no search: {_arms(spec)}{_set_out(spec)}."
        return
    seeds = sorted({record.ask.seed for record in searched})
    trained = len({record.ask.config_hash for record in searched})
    if spec.search.method == "arms":
        grid = f" (the grid of {_space(spec)} and the spec's own arms)" if spec.space else ""
        yield (
            f"Each of {trained} declared configurations{grid} was trained on {_seeds(seeds)}, which is called the "
            f"search here{'' if spec.baseline in (None, 'baseline') else f'; the baseline is {spec.baseline}'}."
        )
    else:
        given = [record.ask.arm for record in searched if record.ask.arm in spec.arms]
        first = f", of which the first {len(given)} were given ({', '.join(map(str, given[:NAMED]))})" if given else ""
        sampler = SAMPLERS.get(spec.search.method, spec.search.method)
        if spec.conditions:
            sampler = sampler.replace("a multivariate", "a grouped multivariate")  # as the searcher builds it
        yield (
            f"{trained} configurations{first} were tried, each once with seed {', '.join(map(str, seeds))}; the others "
            f"were proposed by {sampler} over {_space(spec)}, to minimise "
            f"{spec.objective}{_also(spec)} at the last step of a run."
        )
    yield from _scheduler(spec, journal)
    ended = Counter(record.state for record in searched)
    others = [f"{ended[state]} {state}" for state in ("stopped", "failed", "interrupted", "running") if ended[state]]
    if others:
        yield f"{ended['completed']} of {len(searched)} trials of the search completed ({', '.join(others)})."
    for told in warm_start.words(journal.warm_starts()):
        yield f"From its first point on the sampler knew {told}; these are no trials of this sweep."
    if again := len(journal.repeats("search")):
        yield f"{again} proposals repeated an earlier one and were not trained again."
    yield "Scores of the search are exploration and no result."


def _scheduler(spec: SweepSpec, journal: Journal) -> Iterator[str]:
    if spec.scheduler == "none":
        return
    if isinstance(spec.scheduler, Halving):
        steps = f" at steps {', '.join(f'{rung:,}' for rung in spec.rungs)}" if spec.stub is None else ""
        yield f"Asynchronous successive halving stopped trials{steps}; the baseline was never stopped."
    else:
        yield "The median rule stopped trials; the baseline was never stopped."


def _began(journal: Journal) -> Iterator[str]:
    said = trained([event for event in journal.events if isinstance(event, Session)])
    if began := said.get(BEGAN):
        yield f"Each run began with {began}."


def _budget(spec: SweepSpec, journal: Journal) -> Iterator[str]:
    records = list(journal.trials.values())
    common = Common.of(spec, records)
    off = sum(not common.same(record) for record in records)
    if common.free:
        if off:
            yield f"Runs were compared whatever their budget: {off} of {len(records)} differ from the baseline's."
        return
    if common.predicted is not None:
        exactly = "exactly" if common.exact else "about"
        yield f"A run of the baseline predicts {exactly} {common.predicted:,.0f} positions."
        kept = "So do all others of full length." if not off else ""
        yield kept or (
            f"{off} of {len(records)} runs predict another number and were neither ranked nor compared; all others "
            "predict as many."
        )


def _unconfirmed(spec: SweepSpec, journal: Journal) -> Iterator[str]:
    why = design.why_no_confirmation(spec, journal) if design.searched(spec, journal) else None
    reason = (why or "it has not begun").removeprefix("no confirmation: ")
    if not spec.compared and reason != design.ALONE:
        reason = "the spec declares none"
    yield f"There is no confirmation on fresh seeds ({reason}), so nothing here is a result."


def _confirmation(spec: SweepSpec, journal: Journal, names: Names) -> Iterator[str]:
    families, verdict = journal.families(), journal.verdict()
    first, done = families[0], families[: _judged(journal)]
    candidates = [arm for arm in first.arms if arm not in (first.baseline, first.champion)]
    told = done or families[:1]
    seeds = [seed for family in told for seed in family.seeds]
    were, ran, trained = "were", "ran", "were then each trained"
    if not done:
        were, ran, trained = "are to be", "is to run", "are each to be trained"
    chosen = f"The {len(candidates)} configurations" if len(candidates) != 1 else "One configuration"
    if spec.search.method != "arms":
        chosen = f"The {len(candidates)} configurations" if len(candidates) != 1 else "The configuration"
        chosen += f" with the lowest {spec.objective} in the search"
    elif journal.stage("search") and spec.compared < len(spec.comparable) - 1:
        chosen += f" with the lowest mean {spec.objective} in the search"
    searched = bool(journal.stage("search"))
    listed = ", ".join(map(names.label, candidates[:NAMED])) + ", …" * (len(candidates) > NAMED)
    fewer = "up to " * (len(spec.looks) > 1 or first.racing)
    yield (
        f"{chosen} ({listed}) and {_baseline(first.baseline)} {trained} to full length on {fewer}"
        f"{_seeds(seeds)}{' that the search did not use' * searched}{_fresh(journal, told, searched)}."
    )
    if first.champion:
        standing = names.label(first.champion)
        yield f"The standing champion of earlier sweeps, {standing}, {ran} as well, to be challenged."
    if first.racing:
        yield (
            f"After {RACING_PAIRS} seeds, candidates whose interval {'excluded' if done else 'excludes'} the wanted "
            f"improvement {were} dropped for futility{_dropped(verdict)}."
        )
    failed = sum(record.state == "failed" for record in journal.stage(design.STAGE))
    if failed:
        yield f"{failed} of {len(journal.stage(design.STAGE))} runs of the confirmation failed."
    yield (
        f"Runs with the same seed {were} paired, and the differences in {design.metric(spec)} (candidate minus "
        f"baseline, nats), on a part of the data that {'the search' if searched else 'training'} never read, {were} "
        "tested over seeds."
    )
    yield from _rule(spec, journal, verdict)


def _rule(spec: SweepSpec, journal: Journal, verdict: Mapping[str, Any] | None) -> Iterator[str]:
    count, look = len(journal.families()[0].arms) - 1, max(1, _judged(journal))
    rule = design.rule(spec, count)
    alpha = rule.level(look) if verdict is None else verdict["alpha"]
    single = len(spec.looks) == 1 == look
    level = f"a level of {alpha:.4g}" if single else "the level of the look"
    interval = f"the {confidence(alpha)} % interval of the mean difference"
    interval = interval if single else "the interval of the mean difference at that level"
    worthwhile = rule.worthwhile if verdict is None else verdict["worthwhile"]
    margin = rule.margin if verdict is None else verdict.get("margin", rule.margin)
    than = f"lower than the baseline's by more than {margin:g} nats" if margin else "lower than the baseline's"
    yield (
        f"A candidate counts as confirmed if its loss is {than} by a two-sided paired t test, adjusted by Holm's "
        f"method for {count} comparison{'s' * (count != 1)} at {level}, and if both the same t corrected for the "
        f"skewness of the differences and a sign-flip test (below {GUARD:g}) agree; as worse, if it is higher by the "
        f"same tests; as showing no worthwhile difference, if {interval} lies within ±{worthwhile:g} nats, each "
        f"candidate by itself; and as inconclusive otherwise, or with fewer than {PAIRS} pairs."
    )
    if verdict and any((one.get("documents") or {}).get("combined") for one in verdict["comparisons"]):
        yield (
            "The same had to hold of the error over seeds and documents together (jackknife over documents; min F' of "
            "Clark 1973), else a candidate is inconclusive."
        )
    if verdict and any(one.get("stuck") is not None for one in verdict["comparisons"]):
        yield "A comparison with a run that did not begin to learn counts as inconclusive."
    if verdict and (said := verdict.get("tasks")):
        tasks = list(dict.fromkeys(one["metric"] for one in said["comparisons"]))
        number = len(said["comparisons"])
        yield (
            f"As secondary outcomes, the scores on {len(tasks)} task{'s' * (len(tasks) != 1)} ({', '.join(tasks)}) "
            "were paired over the same seeds and tested in the same way, as a family of their own: Holm's method "
            f"adjusts for {number} comparison{'s' * (number != 1)} of tasks and arms at a level of {said['alpha']:.4g}."
        )
    yield from _looks(spec, journal, rule)
    if verdict is None:
        yield "The confirmation has no verdict yet."
    elif len(families := journal.families()) > look:
        yield f"Look {len(families)}, which adds {_seeds(families[-1].seeds)}, has no verdict yet."


def _looks(spec: SweepSpec, journal: Journal, rule: Rule) -> Iterator[str]:
    families = journal.families()
    taken = min(_judged(journal), len(spec.looks))
    if len(spec.looks) > 1:
        at = ", ".join(map(str, spec.looks))
        shown = ", ".join(f"{level:.2g}" for level in rule.levels)
        yield (
            f"Looks after {at} pairs were declared before the first run; they share a level of {ALPHA:g} by "
            f"{SPENDING[spec.confirm.spending]} spending function (levels {shown}), a candidate runs no further once "
            f"it is settled, and {taken} of {len(spec.looks)} looks {'was' if taken == 1 else 'were'} taken."
        )
    if extra := families[len(spec.looks) :]:
        each = " and ".join(str(len(family.seeds)) for family in extra)
        at = " and ".join(f"{rule.level(len(spec.looks) + number):.4g}" for number in range(1, len(extra) + 1))
        were = "look was" if len(extra) == 1 else "looks were"
        yield (
            f"{len(extra)} further {were} asked for after results had been seen, on {each} more seeds and at a level "
            f"of {at}, so that all looks together stay below {2 * ALPHA:g}."
        )


def _taken_over(journal: Journal) -> Iterator[str]:
    records = list(journal.trials.values())
    reused = sum(record.reused_from is not None for record in records)
    forked = sum(record.reused_from is None and record.start[0] is not None for record in records)
    if reused:
        yield (
            f"{reused} of {len(records)} runs were taken over from earlier sweeps with the same settings, seed, data "
            "and code rather than trained again."
        )
    if forked:
        yield f"{forked} runs started from the state of another run of their seed that is the same up to there."


def _software(spec: SweepSpec, journal: Journal) -> Iterator[str]:
    sessions = [event for event in journal.events if isinstance(event, Session)]
    if sessions:
        versions, told = sessions[-1].versions, recorded.told(journal)
        used = [f"{shown} {versions[name]}" for name, shown in _LIBRARIES.items() if name in versions and not told]
        commit, mark, _ = (sessions[-1].git_commit or "").partition("-dirty")
        code = f" at commit {commit[:12]}{' with changes' * bool(mark)}" if commit else ""
        did = "were chosen and judged, but not trained," if told else "were run"
        yield f"Trials {did} with sweeper{code}{' on ' * bool(used)}{', '.join(used)}."


_LIBRARIES = {"ray": "Ray", "torch": "PyTorch", "optuna": "Optuna"}


def _judged(journal: Journal) -> int:
    """The looks that have their verdict. A look is on record before its first run."""
    return (journal.verdict() or {"look": 0})["look"]


def _baseline(name: str) -> str:
    return "the baseline" if name == "baseline" else f"the baseline, {name},"


def _set_out(spec: SweepSpec) -> str:
    return " went straight to the confirmation" if spec.compared else " were declared"


def _arms(spec: SweepSpec) -> str:
    arms = list(spec.arms)
    return f"the {len(arms)} arms ({', '.join(arms[:NAMED])}{', …' * (len(arms) > NAMED)})"


def _space(spec: SweepSpec) -> str:
    shown = []
    for path, domain in list(spec.space.items())[:NAMED]:
        where = f", {conditions.words(spec.conditions[path])}" if path in spec.conditions else ""
        shown.append(f"{path} ({domain.words()}{where})")
    return ", ".join(shown) + f" and {len(spec.space) - NAMED} more settings" * (len(spec.space) > NAMED)


def _also(spec: SweepSpec) -> str:
    return f" (together with {', '.join(spec.objectives[1:])})" if len(spec.objectives) > 1 else ""


def _seeds(seeds: list[int]) -> str:
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered == [*range(ordered[0], ordered[-1] + 1)]:
        return f"{len(ordered)} seeds ({ordered[0]} to {ordered[-1]})"
    shown = ", ".join(map(str, ordered[:NAMED])) + ", …" * (len(ordered) > NAMED)
    return f"{len(ordered)} seed{'s' * (len(ordered) != 1)} ({shown})"


def _fresh(journal: Journal, families: Sequence[Family], searched: bool) -> str:
    if not journal.facts().get("data_fingerprint"):  # which `fresh_seeds` finds earlier runs by
        return "; whether earlier runs used them was not checked, as the trainable names no data"
    if all(family.fresh for family in families):
        return f", {'nor' if searched else 'unused by'} any earlier run on record on these data"
    return "; not all of them are fresh, as earlier runs on these data used some or could not be asked"


def _dropped(verdict: Mapping[str, Any] | None) -> str:
    gone = [one["arm"] for one in verdict["comparisons"] if one["verdict"] == "dropped"] if verdict else []
    return f" ({', '.join(gone)})" if gone else ""
