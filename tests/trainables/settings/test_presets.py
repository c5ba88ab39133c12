"""A preset is a rule by name: expanded once, beaten by what is explicit, and gone from what is resolved."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.spec.errors import SpecError
from sweeper.spec.load import resolve
from trainables.settings.config import Config
from trainables.settings.masking_rule import MaskingConfig
from trainables.settings.presets import _RULE, MASKING, expand, expand_tree

# The budget and how a rule is carried out, which no preset touches.
KEPT = {
    "replacement",
    "preset",
    "replicate",
    "rate",
    "apportion",
    "update_every",
    "sketch",
    "sketch_width",
    "sketch_depth",
    "draw",
}
# Steps between refreshes: a rule that has a pace of its own unsets what the base settings say, so that it holds.
OWN_PACE = {"update_every"}
# What one preset sets though others keep it: how a predicted token is shown (mask_only).
SHOWN = {"replacement"}
# Nothing here is a default, or what any preset sets.
FOREIGN: dict[str, Any] = {
    "shares": {"random": 0.1, "token": 0.2, "trigram": 0.3, "whole_word": 0.1, "span": 0.1, "rarity": 0.2},
    "schedule": {"shares": [[0, {"random": 1}], [0.5, {"token": 1}]]},
    "mask_warmup": 0.2,
    "ema_decay": 0.5,
    "smoothing": 2.0,
    "min_seen": 7.0,
    "cap": 0.6,
    "loss_quantile": 0.5,
    "band_low": 0.1,
    "band_high": 0.5,
    "rarity_power": 3.0,
    "span_p": 0.5,
    "span_longest": 3,
    "pseudo_count": 2.0,
    "floor": 0.01,
    "renormalise": True,
    "rate_start": 0.35,
    "rate_schedule": "step",
    "rates": [[0, 0.2], [0.5, 0.1]],
    "row_rates": "uniform",
    "corrupt": 0.3,
    "loss_weight": 0.5,
    "pace": 3,
    "refresh_delay": 2,
    "counted": "after_warmup",
    "trigram_mean": "all",
}
# Of these there is no other value than a preset's, or none that goes with the others.
ONE_VALUE = {"rate_schedule", "counted", "trigram_mean", "renormalise", "row_rates"}


def sweep(config: dict[str, Any], **arms: dict[str, Any]) -> Any:
    tree = {"name": "presets", "config": {"steps": 100, "batch_size": 4, **config}, "data": {"block": 16}}
    return resolve({**tree, "arms": arms or {"only": {}}, "search": {"method": "arms"}})


def placed(paths: dict[str, Any]) -> dict[str, Any]:
    """Settings by path as a tree."""
    tree: dict[str, Any] = {}
    for path, value in paths.items():
        section, dot, key = path.partition(".")
        tree.setdefault(section, {}).update({key: value} if dot else value)
    return tree


def test_every_setting_belongs_to_the_rule_or_is_kept() -> None:
    assert {*_RULE} | KEPT == {*MaskingConfig.model_fields}
    assert not {*_RULE} & KEPT
    assert all({*changes} <= {*_RULE} | OWN_PACE | SHOWN for changes in MASKING.values())
    assert all("pace" in changes for changes in MASKING.values() if OWN_PACE & {*changes})


@pytest.mark.parametrize("name", MASKING)
def test_by_path_and_by_tree_are_the_same(name: str) -> None:
    by_tree = Config.model_validate({"masking": {"preset": name}})
    assert Config.model_validate(placed(expand({"masking.preset": name}))) == by_tree
    assert Config.model_validate(placed(expand({"masking": {"preset": name}}))) == by_tree
    assert by_tree.masking.preset is None
    assert (by_tree.masking.apportion, by_tree.masking.draw, by_tree.masking.rate) == ("batch", "exact", 0.15)
    assert by_tree.masking.on_budget == ("decay" not in name and "rate_" not in name and name != "rho_like")


@pytest.mark.parametrize("name", MASKING)
def test_a_resolved_dump_is_read_as_the_same(name: str) -> None:
    config = Config.model_validate({"masking": {"preset": name}, "steps": 50})
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert Config.model_validate_json(config.model_dump_json(), strict=True) == config


@pytest.mark.parametrize("name", MASKING)
def test_nothing_of_another_rule_stays(name: str) -> None:
    """Neither of made-up settings nor of any preset's, in an arm over a complete base."""
    alone = sweep({"masking": {"preset": name}}).trainable_config({})["masking"]
    bases = ({**FOREIGN}, {"preset": "published/amlm-soft-code"}, {"preset": "published/cms-morph"})
    for base in bases:
        spec = sweep({"masking": base}, other={}, this={"masking.preset": name})
        assert spec.trainable_config(spec.arms["this"])["masking"] == alone


def test_foreign_settings_are_all_foreign() -> None:
    """What the test above says of its made-up settings."""
    rule = {**_RULE}
    assert {*FOREIGN} == {*rule} - {"policy", "signal", "score"}
    assert all(FOREIGN[key] != value for key, value in rule.items() if key in FOREIGN)
    assert all(FOREIGN[key] != changes.get(key) for changes in MASKING.values() for key in {*FOREIGN} - ONE_VALUE)


def test_cms_morph_is_refreshed_after_every_batch_whatever_the_base_says() -> None:
    """As its original; what an arm says beside the preset wins all the same, and no other rule inherits it."""
    name = {"masking.preset": "published/cms-morph"}
    arms = {"cms": name, "beside": {**name, "masking.update_every": 4}, "other": {"masking.preset": "amlm"}}
    spec = sweep({"masking": {"update_every": 5}}, **arms)
    assert {arm: spec.settings(params).update_every for arm, params in spec.arms.items()} == {
        "cms": 1,
        "beside": 4,
        "other": 5,
    }
    spec = sweep({"masking": {"preset": "published/cms-morph"}}, plain={}, other={"masking.preset": "accuracy_morph"})
    every = {arm: spec.settings(params).update_every for arm, params in spec.arms.items()}
    assert every == {"plain": 1, "other": round(0.02 * 100)}


def test_refreshes_of_amlms_code_come_a_step_later() -> None:
    """After 201, 401, ... of 10,000 steps."""
    paper, code = (Config.model_validate({"masking": {"preset": f"published/amlm-hard{x}"}}) for x in ("", "-code"))
    assert [done for done in range(1, 900) if paper.refreshes(done)] == [200, 400, 600, 800]
    assert [done for done in range(1, 900) if code.refreshes(done)] == [201, 401, 601, 801]


def test_the_rate_of_amlms_code_ends_one_step_short() -> None:
    rule = {"preset": "published/amlm-hard-decay-code"}
    ours = Config.model_validate({"steps": 100, "masking": rule})
    theirs = Config.model_validate({"steps": 100, "masking": {**rule, "replicate": True}})
    assert (ours.rate_at(0), theirs.rate_at(0)) == (0.40, 0.40)
    assert ours.rate_at(99) == pytest.approx(0.15)
    assert theirs.rate_at(99) == pytest.approx(0.15 + 0.25 / 100)


def test_settings_that_came_later_are_written_where_they_say_something_only() -> None:
    """Hashes of the settings before them stay."""
    plain = MaskingConfig().model_dump(mode="json")
    later = {"pace", "refresh_delay", "counted", "trigram_mean", "rates", "row_rates", "corrupt", "loss_weight"}
    assert not later & {*plain}
    cms = Config.model_validate({"masking": {"preset": "cms_morph"}}).masking.model_dump(mode="json")
    assert {*cms} - {*plain} == {"pace", "counted", "trigram_mean"}


def test_an_ablation_between_two_rules_names_no_setting_that_neither_has() -> None:
    tree = {"name": "a", "config": {"steps": 100, "batch_size": 4}, "data": {"block": 16}, "search": {"method": "arms"}}
    pair = {"plain": {"masking.shares": {"random": 1.0}}, "full": {"masking.preset": "accuracy_morph"}}
    spec = resolve({**tree, "arms": pair, "ablation": "leave_one_out"})
    assert {path for arm in spec.arms.values() for path in arm} == {"masking.shares"}


@pytest.mark.parametrize(
    ("path", "value"),
    [("masking.ema_decay", 0.7), ("masking.update_every", 3), ("masking.shares", {"random": 0.5, "token": 0.5})],
)
def test_explicit_settings_win(path: str, value: Any) -> None:
    section, key = path.split(".")
    by_path = sweep({}, arm={"masking.preset": "cms_morph", path: value})
    by_tree = Config.model_validate({"steps": 100, section: {"preset": "cms_morph", key: value}})
    config = by_path.settings(by_path.arms["arm"])
    assert config.masking == by_tree.masking
    assert config.masking.signal == "loss"
    expected = Config.model_validate({"masking": {key: value}, "steps": 100})
    assert getattr(config.masking, key) == getattr(expected.masking, key)


def test_a_single_share_over_a_preset_does_not_change_the_preset() -> None:
    before = expand({"masking.preset": "accuracy_morph"})
    shares = {"masking.shares.token": 0.2, "masking.shares.random": 0.75}
    spec = sweep({}, arm={"masking.preset": "accuracy_morph", **shares})
    assert spec.settings(spec.arms["arm"]).masking.shares.token == 0.2
    assert (
        expand({"masking.preset": "accuracy_morph"}) == before == expand({"masking.preset": "published/accuracy-morph"})
    )


@pytest.mark.parametrize("preset", ["published/amlm-hard-nhot", "published/amlm-hard-nhot-code"])
def test_nhot_comes_with_its_preset_and_gives_way_to_what_is_explicit(preset: str) -> None:
    by_path, by_section = {"masking.preset": preset}, {"masking": {"preset": preset}}
    spec = sweep({}, plain={}, path=by_path, section=by_section, explicit={**by_path, "model.embedding": "plain"})
    kinds = {arm: spec.settings(params).model.embedding for arm, params in spec.arms.items()}
    assert kinds == {"plain": "plain", "path": "nhot", "section": "nhot", "explicit": "plain"}
    assert Config.model_validate({**by_section, "model": {"embedding": "plain"}}).model.embedding == "plain"
    assert Config.model_validate({**by_section, "model": {"hidden": 64}}).model.embedding == "nhot"


def test_presets_that_mean_the_same_have_one_hash() -> None:
    spec = sweep(
        {}, one={"masking.preset": "accuracy_morph"}, two={"masking.preset": "published/accuracy-morph"}, none={}
    )
    assert len({spec.config_hash(spec.trainable_config(params)) for params in spec.arms.values()}) == 1


def test_without_a_preset_nothing_changes() -> None:
    params = {"masking.rate": 0.2, "steps": 5}
    assert expand(params) == params
    assert expand_tree({"masking": {"rate": 0.2}}) == {"masking": {"rate": 0.2}}
    assert expand({"masking.preset": "amml"}) == {"masking.preset": "amml"}


@pytest.mark.parametrize(
    ("config", "arms"),
    [
        ({"masking": {"preset": "acuracy_morph"}}, {}),
        ({}, {"arm": {"masking.preset": "acuracy_morph"}}),
    ],
)
def test_an_unknown_preset_is_one_line_with_the_nearest_name(config: dict[str, Any], arms: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"acuracy_morph.*'accuracy_morph'") as error:
        sweep(config, **arms)
    assert "\n" not in str(error.value)
    assert "masking.preset" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "random", "draw": "bernoulli"}, "belongs to policy amlm"),
        ({"preset": "amlm", "apportion": "row"}, "write draw: bernoulli"),
        ({"preset": "accuracy_morph", "cap": 2}, "above 1, the largest possible error rate"),
        ({"preset": "difficulty_band", "band_low": 0.9}, "must lie below"),
        ({"preset": "span", "shares": {"random": 0.5}}, "sum to 1"),
    ],
)
def test_contradictions_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        sweep({"masking": settings})
    assert "\n" not in str(error.value)


def test_shares_end_those_of_a_schedule_and_leave_its_constants() -> None:
    """Of the base, or of the preset beside them."""
    constants = {"band_low": [[0, 0.1]]}
    schedule = {"switch": "whole_word to random", "at": 0.7, "constants": constants}
    base = {"masking": {"mask_warmup": 0, "schedule": schedule}}
    half = {"masking.shares": {"random": 0.5, "token": 0.5}}
    arms = {"half": half, "easy": {"masking.preset": "easy_to_hard", **half}, "plain": {"masking.preset": "random"}}
    arms["words"] = {"masking.preset": "words_then_tokens", **half}
    arms["late"] = {"masking.preset": "words_then_tokens", "masking.schedule.at": 0.9}
    spec = sweep(base, base={}, **arms)
    found = {name: spec.settings(arm).masking for name, arm in spec.arms.items()}
    assert found["base"].schedule.shares is not None
    assert found["half"].schedule.shares is None
    assert found["half"].changing == ("band_low",)
    assert found["easy"].changing == ("band_low", "band_high")
    assert found["easy"].shares_at(0, 100)["token"] == 0.5
    assert found["plain"].schedule is None
    assert found["words"].schedule is None
    assert [found["late"].shares_at(step, 100)["whole_word"] for step in (89, 90)] == [1, 0]


def test_shares_end_a_schedule_of_the_base() -> None:
    """Else it would go on in their place, whatever an arm or a point of the space says."""
    base = {"masking": {"mask_warmup": 0, "schedule": {"shares": [[0, {"whole_word": 1}], [0.7, {"random": 1}]]}}}
    spec = sweep(base, base={}, half={"masking.shares": {"random": 0.5, "token": 0.5}})
    found = {name: spec.trainable_config(arm)["masking"].get("schedule") for name, arm in spec.arms.items()}
    assert found["base"]
    assert found["half"] is None


def test_a_switch_ends_the_shares_of_the_schedule_of_the_base_and_the_reverse() -> None:
    """Neither says to give one of the two, as an arm gives one."""
    shares = [[0, {"whole_word": 1}], [0.7, {"random": 1}]]
    switch = {"masking.schedule.switch": "random to span", "masking.schedule.at": 0.4}
    for schedule in ({"shares": shares}, {"switch": "whole_word to random", "at": 0.7}):
        base = {"masking": {"mask_warmup": 0, "schedule": schedule}}
        spec = sweep(base, base={}, switch=switch, shares={"masking.schedule.shares": [[0, {"pmi": 1}]]})
        found = {name: spec.settings(arm).masking for name, arm in spec.arms.items()}
        assert found["base"].shares_at(0, 100)["whole_word"] == 1
        assert [found["switch"].shares_at(step, 100)["span"] for step in (39, 40)] == [0, 1]
        assert found["shares"].shares_at(99, 100)["pmi"] == 1


def test_a_moment_alone_is_refused_before_anything_runs() -> None:
    """The base's switch is read and gone by the time that trials run."""
    base = {"masking": {"mask_warmup": 0, "schedule": {"switch": "whole_word to random", "at": 0.7}}}
    with pytest.raises(SpecError, match=r"schedule\.at needs schedule\.switch beside it"):
        sweep(base, base={}, late={"masking.schedule.at": 0.9})
