"""A policy of one's own is a class and a call of `with_policy`: it trains, keeps the budget, and is on the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.suites import failing
from tests.trainables.tiny import config as tiny
from tests.trainables.tiny import run as trained
from trainables.masking import mixture
from trainables.masking.amlm import Amlm
from trainables.masking.audit import AllReduce
from trainables.settings import catalogue, described, own_masking
from trainables.settings.config import Config
from trainables.testing import PolicyContract, vocabulary

WORDS, MADE_BY = "by gentle weights", "tests.trainables.masking.test_own_policy:Gentle"


class Gentle(Amlm):
    """AMLM, with no weight below half of the rate."""

    def refresh(self, all_reduce: AllReduce) -> None:
        super().refresh(all_reduce)
        self.weight.clamp_(min=self.rate / 2)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> type[Config]:
    policies = dict(catalogue.POLICIES)
    for module in (own_masking, mixture, described):
        monkeypatch.setattr(module, "POLICIES", policies)
    return own_masking.with_policy(Config, "gentle", WORDS, MADE_BY)


def test_settings_take_it_and_nothing_else_changes(own: type[Config]) -> None:
    assert own().model_dump() == Config().model_dump()
    settings = own.model_validate({"masking": {"policy": "gentle"}})
    assert own.model_validate_json(settings.model_dump_json()) == settings
    assert described.masking(settings.masking).endswith(f"of the positions predicted: {WORDS}")
    with pytest.raises(ValueError, match="'mixture' or 'amlm'"):
        Config.model_validate({"masking": {"policy": "gentle"}})
    for given, said in (
        ({"draw": "bernoulli"}, "draw bernoulli belongs to policy amlm"),
        ({"replicate": True}, "replicate belongs to the policies of a publication, and gentle is your own"),
        ({"apportion": "row"}, r"apportion row belongs to policy mixture \["),
        ({"schedule": {"constants": {"smoothing": [[0, 1], [0.5, 2]]}}}, "of policy gentle these may change: none"),
    ):
        with pytest.raises(ValueError, match=said):
            own.model_validate({"masking": {"policy": "gentle", **given}})


def test_its_steps_are_shared_with_no_other_run(own: type[Config]) -> None:
    given: dict[str, Any] = {"steps": 100, "masking": {"mask_warmup": 0.5}}
    assert own.model_validate(given).past(20) is not None
    given["masking"]["policy"] = "gentle"
    assert own.model_validate(given).past(20) is None


@pytest.mark.usefixtures("own_cache")
def test_it_trains_on_the_budget_and_is_on_the_card(own: type[Config], corpus: Path, tmp_path: Path) -> None:
    usual = tiny(corpus, masking={"preset": "random"})
    masking = {"policy": "gentle", "mask_warmup": 0, "update_every": 2}
    settings = own.model_validate({**usual.model_dump(mode="json"), "masking": masking})
    assert isinstance(mixture.build(settings, vocabulary(), slice(0, 8), 0, "cpu"), Gentle)
    last = trained(settings, tmp_path).rows[-1]
    bundle = tmp_path / "checkpoint" / "bundle"
    assert WORDS in " ".join((bundle / "README.md").read_text("utf-8").split())
    audit = json.loads((bundle / "metadata.json").read_text("utf-8"))["mask_audit"]
    assert audit["audit/matched"] == 1
    (tmp_path / "random").mkdir()
    assert last["train/predicted"] == trained(usual, tmp_path / "random").rows[-1]["train/predicted"]


def test_it_keeps_the_contract() -> None:
    suite = {"policy": Gentle, "config": {"masking": {"preset": "amlm"}}}
    assert failing(type("Own", (PolicyContract,), suite)) == set()


def test_it_has_a_name_of_its_own(own: type[Config]) -> None:
    with pytest.raises(ValueError, match=r"the policy 'amlm' is there already, made by trainables\.masking\.amlm:Amlm"):
        own_masking.with_policy(own, "amlm", "as mine", "mine:Amlm")
    with pytest.raises(ValueError, match="the policy 'my own' must have a name that Python allows"):
        own_masking.with_policy(own, "my own", "as mine", "mine:Own")
    both = own_masking.with_policy(own, "other", "as mine", "mine:Own")
    assert both.model_validate({"masking": {"policy": "gentle"}}).masking.policy == "gentle"
    assert both.model_validate({"masking": {"policy": "other"}}).masking.policy == "other"
