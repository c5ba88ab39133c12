"""A masking source is one entry: settings, mixture and model card go by it, and a wrong one is said plainly."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.tiny import config as tiny
from tests.trainables.tiny import run as trained
from trainables import testing
from trainables.data import batches
from trainables.masking import sources
from trainables.masking.mixture import build
from trainables.masking.replacement import Corruption
from trainables.noise import Draw, StepNoise
from trainables.settings import catalogue, described, own_masking, shares
from trainables.settings.catalogue import OWN_DRAWS, Entry
from trainables.settings.config import Config
from trainables.settings.frozen import Frozen
from trainables.settings.presets import MASKING
from trainables.settings.shares import Shares

LATE = Entry("towards the end of a row", "tests.trainables.masking.test_catalogue:Late")


class Late(sources.Source):
    name = "late"


def test_every_entry_leads_to_its_source_and_has_a_share() -> None:
    assert [*catalogue.SOURCES] == [*Shares.model_fields]
    for entry in catalogue.SOURCES.values():
        module, _, attribute = entry.made_by.partition(":")
        assert callable(getattr(import_module(module), attribute))


@pytest.mark.parametrize(
    ("made_by", "said"),
    [
        (
            "trainables.masking.sources:Lat",
            "sources:Lat for the source late: module 'trainables.masking.sources' has no attribute",
        ),
        ("trainables.nowhere:Late", "for the source late: No module named 'trainables.nowhere'"),
        ("trainables.masking.sources:Span", "trainables.masking.sources:Span is listed as late and calls itself span"),
    ],
)
def test_a_wrong_entry_is_said_before_the_first_step(monkeypatch: pytest.MonkeyPatch, made_by: str, said: str) -> None:
    monkeypatch.setitem(catalogue.SOURCES, "late", LATE._replace(made_by=made_by))
    nothing: Any = None
    with pytest.raises(ValueError, match=r"^catalogue\.py: (cannot load )?trainables\.") as caught:
        sources.make("late", Config(), nothing, "cpu")
    assert said in str(caught.value)
    monkeypatch.setitem(catalogue.SOURCES, "late", LATE)
    assert sources.make("late", Config(), nothing, "cpu").name == "late"


def test_shares_follow_the_catalogue_and_older_hashes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.SOURCES, "late", LATE)
    later = shares._with_later_sources(Shares)
    assert later.model_validate({"token": 1, "random": 0}).model_dump() == Shares(token=1, random=0).model_dump()
    with_late = later.model_validate({"random": 0.5, "late": 0.5})
    assert with_late.model_dump() == {**Shares().model_dump(), "random": 0.5, "late": 0.5}
    assert later.model_validate_json(with_late.model_dump_json()) == with_late
    with pytest.raises(ValueError, match=r"shares must sum to 1, these sum to 1\.5"):
        later.model_validate({"late": 0.5})
    masking: Any = Config().masking.model_copy(update={"shares": with_late})
    assert "50.0% at random, 50.0% towards the end of a row" in described.masking(masking)


def test_a_share_without_an_entry_is_refused_when_settings_are_imported() -> None:
    class Stray(Frozen):
        random: float = 1.0
        early: float = 0.0

    with pytest.raises(TypeError, match=r"catalogue\.py has no entry for the share early"):
        shares._with_later_sources(Stray)


def test_a_source_of_ones_own_gets_a_share_and_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_masking, "SOURCES", sources_then := dict(catalogue.SOURCES))
    own = own_masking.with_source(Config, "late", LATE.words, LATE.made_by)
    assert sources_then["late"] == LATE
    assert own().model_dump() == Config().model_dump()
    settings = own.model_validate({"masking": {"shares": {"random": 0.5, "late": 0.5}}})
    assert settings.masking.shares_at(0, 10)["late"] == settings.masking.largest_shares["late"] == 0.5
    assert isinstance(settings, Config)
    assert own.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValueError, match=r"shares must sum to 1, these sum to 1\.5"):
        own.model_validate({"masking": {"shares": {"late": 0.5}}})
    with pytest.raises(ValueError, match="late"):
        Config.model_validate({"masking": {"shares": {"random": 0.5, "late": 0.5}}})
    switch = {"masking": {"mask_warmup": 0, "schedule": {"switch": "late to random", "at": 0.5}}}
    assert own.model_validate(switch).masking.shares_at(0, 10)["late"] == 1
    with pytest.raises(ValueError, match=r"two of random, [a-z_, ]+informask") as refused:
        Config.model_validate(switch)
    assert "informask, late" not in str(refused.value)
    both = own_masking.with_source(own, "later", "later still", "tests:Later")
    mixed = both.model_validate({"masking": {"shares": {"random": 0.5, "late": 0.3, "later": 0.2}}})
    assert [mixed.masking.shares_at(0, 1)[name] for name in ("late", "later")] == [0.3, 0.2]


def test_a_source_of_ones_own_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_masking, "SOURCES", dict(catalogue.SOURCES))
    with pytest.raises(
        ValueError, match=r"the source 'span' is there already, made by trainables\.masking\.sources:Span"
    ):
        own_masking.with_source(Config, "span", "as mine", "mine:Span")
    with pytest.raises(ValueError, match="the source 'my late' must have a name that Python allows"):
        own_masking.with_source(Config, "my late", "late", "mine:Late")
    for name in ("other", "rate", "quotas", "amlm"):
        with pytest.raises(
            ValueError, match=f"the source '{name}' must have another name: a step draws something else"
        ):
            own_masking.with_source(Config, name, "as mine", "mine:Own")
    assert [*own_masking.SOURCES] == [*catalogue.SOURCES]


@pytest.mark.usefixtures("own_cache")
def test_the_names_of_a_steps_own_draws_are_all_known(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every preset, of AMLM's independent draws, of a run, and of the batches of another device than the CPU."""
    drawn: set[str] = set()
    real = StepNoise.get_or_draw

    def noted(self: StepNoise, name: str, draw: Draw, device: torch.device) -> torch.Tensor:
        drawn.add(name)
        return real(self, name, draw, device)

    monkeypatch.setattr(StepNoise, "get_or_draw", noted)
    rules: list[dict[str, Any]] = [*({"preset": name} for name in MASKING), {"preset": "amlm", "draw": "bernoulli"}]
    rules.append({"preset": "amlm", "mask_warmup": 0.5})
    for rule in rules:
        given = Config.model_validate({"steps": 100, "batch_size": 12, "data": {"block": 32}, "masking": rule})
        policy = build(given, testing.vocabulary(), slice(0, 12), 0, "cpu")
        for step in (0, 99):
            ids, noise = testing.batch(step, (12, 32)), StepNoise(0, 0, step, (12, 32))
            selection = policy.select(ids, noise)
            eligible = torch.tensor(testing.vocabulary().eligible)
            Corruption(given.masking.corrupt, eligible, slice(0, 12))(ids, selection, noise)
    settings = tiny(corpus, masking={"preset": "whole_word"})
    trained(settings, tmp_path)
    made = batches.Batches(batches.prepare(settings.data), settings.batch_size, 0)
    noise = StepNoise(0, 0, 0, (settings.batch_size, settings.data.block))
    assert made.ids(noise, "meta").shape == noise.shape
    assert drawn - {*catalogue.SOURCES} == OWN_DRAWS
    assert drawn >= {*catalogue.SOURCES}
