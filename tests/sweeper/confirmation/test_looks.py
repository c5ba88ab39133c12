"""Declared looks: their boundaries, and a confirmation that adds seeds until every comparison is settled."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from sweeper import stages
from sweeper.confirmation import champion, conclusion, looks
from sweeper.confirmation import design as design_module
from sweeper.confirmation.looks import Spending
from sweeper.confirmation.verdicts import Rule, verdicts
from sweeper.journal import verdict_text
from sweeper.journal.events import Family, Verdict
from sweeper.journal.journal import Journal
from sweeper.preflight import Admission, Request
from sweeper.report import sections, tables
from sweeper.spec.errors import SpecError
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from sweeper.system.interrupts import Interrupts
from sweeper.trials import cluster
from sweeper.trials import tuner as sweep_room
from tests import calibration, calibration_looks
from tests.sweeper.confirmation.test_design import run, searched, spec

SEEDS = list(range(11, 23))
DECIDED: dict[str, Any] = {"until": "decided", "looks": [6, 9, 12], "best": 3}
# Of equal stretches, two-sided 5 %; as the program of Reboussin, DeMets, Kim & Lan (2000) prints them.
PUBLISHED: dict[Spending, dict[int, list[float]]] = {
    "obrien_fleming": {3: [3.7103, 2.5114, 1.9930], 5: [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]},
    "pocock": {3: [2.2794, 2.2949, 2.2959], 5: [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]},
}


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
@pytest.mark.parametrize("number", [3, 5])
def test_boundaries_are_the_published_ones(spending: Spending, number: int) -> None:
    found = looks.levels(tuple(range(1, number + 1)), spending, 0.05)
    bounds = [float(-special.ndtri(level / 2)) for level in found]
    assert bounds == pytest.approx(PUBLISHED[spending][number], abs=2e-4)
    assert found == pytest.approx(looks.levels(tuple(range(8, 8 * number + 1, 8)), spending, 0.05))


def crossing(pairs: Sequence[int], nominal: Sequence[float]) -> float:
    """The chance that a normal statistic without effect is beyond its two-sided p of any look."""
    law, total = looks._Law(), 0.0
    for number, p in zip(pairs, nominal, strict=True):
        law = law.at(number / pairs[-1])
        total += law.beyond(bound := -float(special.ndtri(p / 2)))
        law = law.within(bound)
    return total


def test_the_crossing_of_classical_boundaries_is_their_level() -> None:
    """O'Brien & Fleming's (1979) and Pocock's (1977) for three looks at 5 %, in Jennison & Turnbull (2000)."""
    for nominal in ([0.0005, 0.0141, 0.0451], [0.0221] * 3):
        assert crossing((8, 16, 24), nominal) == pytest.approx(0.05, abs=3e-4)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
@pytest.mark.parametrize("pairs", [(8, 16, 24), (8, 12, 16), (8, 12, 16, 20, 24, 28, 32)])
@pytest.mark.parametrize("comparisons", [1, 3, 8])
def test_holms_steps_stay_within_the_level_over_all_looks(
    spending: Spending, pairs: tuple[int, ...], comparisons: int
) -> None:
    found = looks.levels(pairs, spending, 0.05, comparisons)
    chances = [left * crossing(pairs, [level / left for level in found]) for left in range(1, comparisons + 1)]
    assert chances[-1] == pytest.approx(0.05, abs=1e-6)
    assert chances == sorted(chances)  # the fewer are left, the safer


def test_a_single_look_takes_all_and_an_early_one_hardly_any() -> None:
    assert looks.levels((8,), "obrien_fleming", 0.05, 3) == pytest.approx((0.05,))
    first, last = looks.levels((6, 1000), "obrien_fleming", 0.05)
    assert 0 < first < 1e-30
    assert last == pytest.approx(0.05)


@pytest.mark.parametrize("pairs", [(6, 100), (8, 16, 120)])
def test_a_first_look_that_can_show_nothing_is_a_number_all_the_same(pairs: tuple[int, ...]) -> None:
    """Levels below the rounding of 1: what is asked of t comes from its lower tail."""
    levels = looks.levels(pairs, "obrien_fleming", 0.05, 3)
    draw = np.random.default_rng(0)
    losses = {arm: {seed: 3 + float(draw.normal()) for seed in range(pairs[0])} for arm in "abcd"}
    sums = {arm: {seed: draw.normal(size=(2, 30)) ** 2 for seed in by} for arm, by in losses.items()}
    found = verdicts(losses, "a", Rule(levels=levels), documents=sums)
    assert levels[0] < 1e-15
    for one in found.comparisons:
        assert json.dumps(asdict(one), allow_nan=False)
        assert one.detectable
        assert one.detectable > 1000


def test_looks_beside_the_declared_ones_halve_what_those_took_together() -> None:
    rule = Rule(levels=(0.001, 0.01, 0.045))
    assert [rule.level(look) for look in range(1, 6)] == [0.001, 0.01, 0.045, 0.025, 0.0125]
    assert [Rule().level(look) for look in range(1, 4)] == [0.05, 0.025, 0.0125]


def decided(**changes: Any) -> SweepSpec:
    return spec(confirm=DECIDED | changes, seeds={"search": [1], "confirm": SEEDS})


def test_a_spec_says_its_looks_and_older_hashes_stay() -> None:
    seeds = {"search": [1], "confirm": [*range(11, 29)]}
    plain, until = spec(seeds=seeds), spec(seeds=seeds, confirm={"until": "decided"})
    assert (plain.looks, plain.confirm_trials) == ((18,), 72)
    assert (until.looks, until.confirm_trials) == ((8, 12, 16, 18), 72)
    assert spec(seeds=seeds, confirm={"until": "decided", "looks": [6, 10]}).confirm_trials == 40
    assert set(plain.model_dump(mode="json")["confirm"]) == {"best", "worthwhile", "margin", "racing"}
    assert plain.spec_hash != until.spec_hash
    assert resolve(until.model_dump(mode="json")).spec_hash == until.spec_hash


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"until": "decided", "looks": [16, 8]}, "confirm.looks: [16, 8] must ascend"),
        ({"until": "decided", "looks": [8, 8]}, "confirm.looks: [8, 8] must ascend"),
        ({"until": "decided", "looks": [8, 25]}, "confirm.looks: the last needs 25 pairs, but seeds.confirm has 12"),
        ({"until": "decided", "looks": [5, 10]}, "confirm.looks[0]: 5 should be greater than or equal to 6"),
        ({"until": "decided", "looks": []}, "confirm.looks: [] is too short"),
        ({"looks": [8, 16]}, "confirm.looks: needs confirm.until: decided; without it there is one look"),
        ({"spending": "pocock"}, "confirm.spending: needs confirm.until: decided"),
        ({"until": "never"}, "confirm.until: 'never' should be 'decided'"),
    ],
)
def test_looks_that_cannot_be_are_refused_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        spec(confirm=changes, seeds={"search": [1], "confirm": SEEDS})
    assert said in str(error.value)


class Drive:
    """The command's own way through the stages, with made-up losses in Ray's place: by label, of a seed's number.

    crash: after so many runs in all the driver is gone.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, sweep: SweepSpec) -> None:
        self.folder, self.sweep, self.said = folder, sweep, list[str]()
        self.losses: dict[str, Callable[[int], float]] = {}
        self.crash: int | None = None
        searched(folder, sweep).close()
        monkeypatch.setattr(cluster, "session", lambda *_: contextlib.nullcontext([]))
        monkeypatch.setattr(stages, "max_concurrent", lambda *_: 1)
        monkeypatch.setattr(sweep_room, "confirm", self._confirm)

    def __call__(self, more_seeds: int = 0) -> Journal:
        journal = Journal(self.folder / "journal.jsonl")
        with Interrupts(self.said.append, "") as signals:
            stages = Stages(
                spec=self.sweep,
                run_dir=self.folder,
                journal=journal,
                uri="sqlite:////no/x",
                prepare_info={},
                more_seeds=more_seeds,
            )
            if not stages.over:
                stages.run(signals)
        journal.close()
        return Journal(self.folder / "journal.jsonl", read_only=True)

    def _confirm(self, spec: SweepSpec, _: Path, journal: Journal, *__: Any, **___: Any) -> bool:
        while (done := len(journal.stage("confirm"))) < len(design_module.runs(spec, journal)):
            if self.crash is not None and done >= self.crash:
                return False
            label, seed = design_module.runs(spec, journal)[done]
            loss, params = self.losses[label](seed), journal.families()[-1].arms[label]
            run(journal, spec, "confirm", label, seed, params, val_loss=loss, test_loss=loss)
        return design_module.complete(spec, journal)


def noise(seed: int, scale: float) -> float:
    """As symmetric as can be, and of alternating sign from one seed to the next."""
    return scale * (1 if seed % 2 else -1) * (1 + seed % 3 / 10)


LOSSES: dict[str, Callable[[int], float]] = {
    "baseline": lambda seed: 2.0 + seed / 100,
    "s0003": lambda seed: 1.8 + seed / 100 + noise(seed, 0.003),  # far below at once
    "s0002": lambda seed: 1.98 + seed / 100 + noise(seed, 0.01),  # below, after a second look
    "s0004": lambda seed: 2.0 + seed / 100 + noise(seed, 0.2),  # nobody knows
}


def driver(monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: Any) -> Drive:
    folder.mkdir(exist_ok=True)
    drive = Drive(monkeypatch, folder, decided(**changes))
    drive.losses = LOSSES
    return drive


def kept(journal: Journal) -> list[str]:
    """What the confirmation wrote, but for the time."""
    events = [event for event in journal.events if isinstance(event, Family | Verdict)]
    told = [{key: value for key, value in vars(event).items() if key != "time"} for event in events]
    return [*map(json.dumps, told), *(json.dumps([one.ask.arm, one.ask.seed]) for one in journal.stage("confirm"))]


def test_arms_run_until_a_look_settles_them_and_keep_its_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drive = driver(monkeypatch, tmp_path / "run")
    journal = drive()
    first, second, third = said = design_module.verdicts(journal)
    assert [one["look"] for one in said] == [1, 2, 3]
    assert first["told"] == {"s0003": "confirmed", "s0002": "inconclusive", "s0004": "inconclusive"}
    assert second["told"] == {"s0003": "confirmed", "s0002": "confirmed", "s0004": "inconclusive"}
    assert third["told"] == second["told"]
    assert verdict_text.headline(first).endswith("This was look 1 of at most 3: `s0002`, `s0004` go on.")
    assert "of at most 3: `s0004` goes on." in verdict_text.headline(second)
    assert "at most" not in verdict_text.headline(third)
    assert (first["settled"], third["settled"]) == ({"s0003": 1}, {"s0003": 1, "s0002": 2})
    assert [one["n"] for one in third["comparisons"]] == [6, 9, 12]
    assert json.dumps(third["comparisons"][0]) == json.dumps(first["comparisons"][0])
    of = {label: sum(one.ask.arm == label for one in journal.stage("confirm")) for label in LOSSES}
    assert of == {"baseline": 12, "s0003": 6, "s0002": 9, "s0004": 12}
    assert [family.seeds for family in journal.families()] == [SEEDS[:6], SEEDS[6:9], SEEDS[9:]]
    assert (third["champion"], third["fresh"]) == ("s0003", first["fresh"])
    assert "the champion is the best of 2 confirmed, so its estimate is optimistic" in third["notes"]
    levels = looks.levels((6, 9, 12), "obrien_fleming", 0.05, 3)
    assert [one["alpha"] for one in third["looks"]] == list(levels) == [one["alpha"] for one in said]
    assert drive.sweep.compared == 3
    assert design_module.finished(drive.sweep, journal)
    text = sections.markdown(drive.sweep, journal, sections.Outcome(run_dir=drive.folder, tracking_uri="x"))
    assert (
        "**Confirmed: `s0003` (effect 0.2)** against `baseline` over 6 seeds by test/loss: -0.2000 nats, "
        "99.886 % interval" in text
    )
    assert "s0003: settled at look 1, after 6 pairs, runs no further and keeps its verdict" in text
    assert "look 2, declared: 9 pairs at a level of 0.014" in text
    assert "for an arm that an earlier look settled at that look's level" in tables.verdict_tex(third)


@pytest.mark.parametrize("crash", [0, 5, 24, 30, 33])
def test_a_crash_anywhere_leads_to_the_same_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: int) -> None:
    whole = driver(monkeypatch, tmp_path / "whole")()
    drive = driver(monkeypatch, tmp_path / "torn")
    drive.crash = crash
    assert not design_module.finished(drive.sweep, drive())
    drive.crash = None
    assert kept(drive()) == kept(whole)
    assert kept(drive()) == kept(whole)  # and nothing more


@pytest.mark.parametrize("last", ["verdict", "family"])
def test_a_crash_between_two_looks_leads_to_the_same_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last: str
) -> None:
    drive = driver(monkeypatch, tmp_path / "run")
    whole = kept(drive())
    path = drive.folder / "journal.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    end = [i for i, line in enumerate(lines) if json.loads(line)["event"] == last][1]
    for cut in (end, end + 1):  # before and after the second one was written
        path.write_text("".join(lines[:cut]), "utf-8")
        assert not design_module.finished(drive.sweep, Journal(path, read_only=True))
        assert kept(drive()) == whole


def test_no_champion_is_crowned_before_the_last_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drive = driver(monkeypatch, tmp_path / "run")
    asked = list[int]()
    monkeypatch.setattr(champion, "promotion", lambda spec, journal, *_: asked.append(journal.verdict()["look"]))
    for crash in (30, None):
        drive.crash = crash
        journal = drive()
        stages = Stages(spec=drive.sweep, run_dir=drive.folder, journal=journal, uri="sqlite:////no/x", prepare_info={})
        _, tags = stages.promotion(drive.said.append)
        assert ("sweeper.verdict" in tags) == (crash is None)
    assert asked == [3]


@pytest.mark.parametrize(("settled", "crowned"), [({"new": 1, "old": 1}, None), ({"new": 1}, None), ({}, "new")])
def test_a_challenge_is_at_the_level_of_the_look_at_which_its_pairs_grew(
    settled: dict[str, int], crowned: str | None
) -> None:
    """p of new against old is 0.002: enough for the last of five looks, and not for the first."""
    noise = np.array([1.0, -1.0, 2.0, -2.0, 1.5, -1.5, 0.5, -0.5]) * 1e-3
    away = {"base": 0.0, "old": -0.1, "new": -0.1022}
    losses = {arm: {i: 3 + by + (noise[i] if arm == "new" else 0.0) for i in range(8)} for arm, by in away.items()}
    levels = looks.levels((8, 12, 16, 20, 24), "obrien_fleming", 0.05, 2)
    family = Family(look=5, baseline="base", arms={arm: {} for arm in away}, seeds=[0], champion="old")
    found = conclusion._challenge(family, losses, Rule(levels=levels), ["new", "old"], {"look": 5}, settled)
    assert found is not None
    assert levels[0] < found["comparisons"][0]["adjusted"] < levels[-1]
    assert found["crowned"] == crowned


def test_it_ends_with_the_look_that_settles_the_last_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drive = driver(monkeypatch, tmp_path / "run")
    drive.losses = LOSSES | {
        "s0002": lambda seed: 2.0 + seed / 100 + noise(seed, 0.0001),
        "s0004": lambda seed: 2.3 + seed / 100 + noise(seed, 0.01),
    }
    journal = drive()
    (said,) = design_module.verdicts(journal)
    assert said["told"] == {"s0003": "confirmed", "s0002": "no worthwhile difference", "s0004": "worse"}
    assert len(journal.stage("confirm")) == 24
    assert design_module.finished(drive.sweep, journal)
    assert design_module.unsettled(drive.sweep, journal) == []
    assert len(drive(more_seeds=4).families()) == 1
    door = Admission(
        request=Request(more_seeds=4),
        path=tmp_path,
        spec=drive.sweep,
        storage=tmp_path,
        run_to_resume=drive.folder,
        fit=1,
        say=drive.said.append,
    )
    assert [line for lines in door.refusals() for line in lines] == [
        "--more-seeds: every comparison of this run is settled or dropped: nothing would run"
    ]


def test_more_seeds_after_the_declared_looks_are_for_the_unsettled_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drive = driver(monkeypatch, tmp_path / "run")
    drive()
    journal = drive(more_seeds=4)
    said = journal.verdict() or {}
    assert (said["look"], said["alpha"]) == (4, 0.025)
    assert said["looks"][3] == {"pairs": 16, "alpha": 0.025, "declared": False}
    assert [one["n"] for one in said["comparisons"]] == [6, 9, 16]
    assert {one.ask.arm for one in journal.stage("confirm")[-8:]} == {"baseline", "s0004"}


def test_an_arm_that_racing_dropped_stays_so_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drive = driver(monkeypatch, tmp_path / "run", racing=True, best=2)
    drive.losses = LOSSES | {"s0002": lambda seed: 2.3 + seed / 100 + noise(seed, 0.01)}
    journal = drive()
    (said,) = design_module.verdicts(journal)
    assert said["told"] == {"s0003": "confirmed", "s0002": "dropped after 4 pairs"}
    assert len(journal.stage("confirm")) == 6 + 6 + 4
    assert design_module.finished(drive.sweep, journal)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
@pytest.mark.parametrize("k", [1, 3])
def test_simulated_looks_keep_the_false_rate_and_their_power(
    monkeypatch: pytest.MonkeyPatch, spending: Spending, k: int
) -> None:
    """The whole table is `python -m tests.calibration_looks`; this one notices a level that is spent twice."""
    monkeypatch.setattr(calibration, "FAMILIES", 4000)
    design = (8, 10, 12)
    rule = calibration_looks.rules(design, k)[spending]
    null = calibration.family(calibration.LAWS["normal"], k, design[-1], (90, k))
    false, ended = calibration_looks.until_decided(null, design, rule)
    assert 0.012 < false.any(-1).mean() < calibration.FALSE_RATE
    assert ended.mean() > 11.5
    real = null - 2 * calibration_looks.PAIR_SD
    found, ended = calibration_looks.until_decided(real, design, rule)
    assert found.mean() > 0.97
    assert ended.mean() < 10.5


def test_many_arms_stand_together_by_what_is_said_of_them() -> None:
    told = {f"a{i}": "inconclusive" if i % 2 else "dropped after 4 pairs" for i in range(6)}
    verdict: dict[str, Any] = {"told": told, "metric": "test/loss", "champion": None, "comparisons": [], "look": 1}
    verdict |= {"seeds": [1, 2], "fresh": True, "baseline": "random", "settled": {}}
    assert verdict_text.headline(verdict) == (
        "**Nothing is confirmed** against `random` over 2 seeds by test/loss. "
        "Dropped after 4 pairs: `a0`, `a2`, `a4`; inconclusive: `a1`, `a3`, `a5`."
    )
    del told["a5"]
    assert "`a0`: dropped after 4 pairs; `a1`: inconclusive; " in verdict_text.headline(verdict)
