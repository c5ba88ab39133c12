"""A preset is a rule by name: expanded once, beaten by what is explicit, and gone from what is resolved."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.spec import SpecError, resolve
from trainables.config import Config, MaskingConfig
from trainables.presets import _RULE, MASKING, expand, expand_tree

# The budget and how a rule is carried out, which no preset touches.
KEPT = {"preset", "replicate", "rate", "apportion", "update_every", "sketch", "sketch_width", "sketch_depth", "draw"}
# Nothing here is a default, or what any preset sets.
FOREIGN: dict[str, Any] = {
    "shares": {"random": 0.1, "token": 0.2, "trigram": 0.3, "whole_word": 0.1, "span": 0.1, "rarity": 0.2},
    "mask_warmup": 0.2,
    "ema_decay": 0.5,
    "smoothing": 2.0,
    "min_seen": 7.0,
    "cap": 0.6,
    "loss_quantile": 0.5,
    "band_low": 0.1,
    "band_high": 0.5,
    "rarity_power": 3.0,
    "pseudo_count": 2.0,
    "floor": 0.01,
    "renormalise": True,
    "rate_start": 0.3,
}


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
    assert all({*changes} <= {*_RULE} for changes in MASKING.values())


@pytest.mark.parametrize("name", MASKING)
def test_by_path_and_by_tree_are_the_same(name: str) -> None:
    by_tree = Config.model_validate({"masking": {"preset": name}})
    assert Config.model_validate(placed(expand({"masking.preset": name}))) == by_tree
    assert Config.model_validate(placed(expand({"masking": {"preset": name}}))) == by_tree
    assert by_tree.masking.preset is None
    assert (by_tree.masking.apportion, by_tree.masking.draw, by_tree.masking.rate) == ("batch", "exact", 0.15)
    assert by_tree.masking.matched == (name != "published/amlm-hard-decay")


@pytest.mark.parametrize("name", MASKING)
def test_a_resolved_dump_is_read_as_the_same(name: str) -> None:
    config = Config.model_validate({"masking": {"preset": name}, "steps": 50})
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert Config.model_validate_json(config.model_dump_json(), strict=True) == config


@pytest.mark.parametrize("name", MASKING)
def test_nothing_of_another_rule_stays(name: str) -> None:
    """Neither of made-up settings nor of any preset's, in an arm over a complete base."""
    alone = sweep({"masking": {"preset": name}}).trainable_config({})["masking"]
    for base in ({**FOREIGN}, {"preset": "published/amlm-soft"}, {"preset": "published/cms-morph"}):
        spec = sweep({"masking": base}, other={}, this={"masking.preset": name})
        assert spec.trainable_config(spec.arms["this"])["masking"] == alone


def test_foreign_settings_are_all_foreign() -> None:
    """What the test above says of its made-up settings."""
    rule = {**_RULE}
    assert {*FOREIGN} == {*rule} - {"policy", "signal", "score", "rate_schedule"}
    assert all(FOREIGN[key] != value for key, value in rule.items() if key in FOREIGN)


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


def test_nhot_comes_with_its_preset_and_gives_way_to_what_is_explicit() -> None:
    name = "published/amlm-hard-nhot"
    by_path, by_section = {"masking.preset": name}, {"masking": {"preset": name}}
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
        ({"preset": "accuracy_morph", "cap": 2}, "at most 1"),
        ({"preset": "difficulty_band", "band_low": 0.9}, "must lie below"),
        ({"preset": "span", "shares": {"random": 0.5}}, "sum to 1"),
    ],
)
def test_contradictions_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        sweep({"masking": settings})
    assert "\n" not in str(error.value)
