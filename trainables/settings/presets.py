"""Masking systems by name. A preset sets a rule and its constants; the budget and everything else stay.

Explicit settings win over it. Once read, it is replaced: a resolved configuration holds the settings that the name
stood for, so that the same run has the same settings however it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal, NamedTuple

Preset = Literal[
    "published/random",
    "published/accuracy-morph",
    "published/cms-morph",
    "published/amlm-hard",
    "published/amlm-soft",
    "published/amlm-hard-decay",
    "published/amlm-hard-nhot",
    "published/amlm-hard-code",
    "published/amlm-soft-code",
    "published/amlm-hard-decay-code",
    "published/amlm-hard-nhot-code",
    "random",
    "accuracy_morph",
    "token_only",
    "trigram_only",
    "difficulty_band",
    "cms_morph",
    "frequency",
    "random_sketch_control",
    "amlm",
    "whole_word",
    "span",
    "rarity",
]
Tree = dict[str, Any]

# Every setting that belongs to a rule, so that a preset leaves nothing of the rule before it.
_RULE: Tree = {
    "policy": "mixture",
    "shares": {"random": 0.8, "token": 0.15, "trigram": 0.05},
    "schedule": None,
    "signal": "accuracy",
    "mask_warmup": 0.30,
    "ema_decay": 1.0,
    "smoothing": 1.0,
    "min_seen": 3.0,
    "cap": 0.9,
    "band_low": 0.0,
    "band_high": None,
    "score": "hard",
    "pseudo_count": 0.0,
    "floor": 0.0,
    "renormalise": False,
    "rate_schedule": "constant",
    "rate_start": 0.40,
    "loss_quantile": 0.75,
    "rarity_power": 1.0,
    "pace": None,
    "refresh_delay": None,
    "counted": None,
    "trigram_mean": None,
}
# The rule in AMLM's paper, and what its code always adds.
_AMLM: Tree = {"policy": "amlm", "mask_warmup": 0.0, "ema_decay": 0.2}
_AMLM_CODE: Tree = {**_AMLM, "floor": 0.005, "renormalise": True, "pseudo_count": 1.0, "refresh_delay": 1}
# Counts are read after every batch, which overrides an `update_every` of the base settings.
_CMS: Tree = {
    "signal": "loss",
    "shares": {"random": 0.7, "token": 0.2, "trigram": 0.1},
    "mask_warmup": 0.10,
    "min_seen": 0.0,
    "cap": 5.0,
    "pace": 1,
    "update_every": None,
    "counted": "after_warmup",
    "trigram_mean": "all",
}

# Accuracy-Morph and CMS-Morph (BabyLM 2026), AMLM (Edman & Fraser, BabyLM 2025), and rules of our own. `frequency` and
# `random_sketch_control` take their names from Accuracy-Morph's study, but the rules are ours: there, frequency has the
# whole budget from step 1, by id and without trigrams, and the control draws uniformly through the heavy-hitter code,
# at 50/25/25.
MASKING: dict[Preset, Tree] = {
    "published/random": {"shares": {"random": 1.0}},
    "published/accuracy-morph": {},
    "published/cms-morph": _CMS,
    "published/amlm-hard": _AMLM,
    "published/amlm-soft": {**_AMLM, "score": "soft"},
    "published/amlm-hard-decay": {**_AMLM, "rate_schedule": "linear"},
    "published/amlm-hard-nhot": _AMLM,
    "published/amlm-hard-code": _AMLM_CODE,
    "published/amlm-soft-code": {**_AMLM_CODE, "score": "soft"},
    "published/amlm-hard-decay-code": {**_AMLM_CODE, "rate_schedule": "linear"},
    "published/amlm-hard-nhot-code": _AMLM_CODE,
    "random": {"shares": {"random": 1.0}},
    "accuracy_morph": {},
    "token_only": {"shares": {"random": 0.85, "token": 0.15}},
    "trigram_only": {"shares": {"random": 0.95, "trigram": 0.05}},
    "difficulty_band": {"band_low": 0.3, "band_high": 0.8},
    "cms_morph": _CMS,
    "frequency": {"signal": "frequency"},
    "random_sketch_control": {"signal": "permuted"},
    "amlm": _AMLM,
    "whole_word": {"shares": {"random": 0.0, "whole_word": 1.0}, "mask_warmup": 0.0},
    "span": {"shares": {"random": 0.0, "span": 1.0}, "mask_warmup": 0.0},
    "rarity": {"shares": {"random": 0.8, "rarity": 0.2}, "mask_warmup": 0.0},
}


class Origin(NamedTuple):
    """Where a preset's rule comes from: paper and section. number: what was published for it; "" where nothing was."""

    source: str
    number: str = ""


_MORPH, _MORPH_CMS = "Accuracy-Morph (BabyLM 2026)", "CMS-Morph (BabyLM 2026)"
_EDMAN, _EDMAN_CODE = "AMLM (Edman & Fraser 2025)", "AMLM's code (Edman & Fraser 2025)"
_BASELINE = Origin(
    f"{_MORPH}, its baseline",
    "val loss 3.1445, 3.0296, 2.8329 (three seeds, each with its own split)",
)
_ACCURACY = Origin(_MORPH, "val loss 3.1326, 3.0105 (two seeds)")
_RAW_LOSS = Origin(_MORPH_CMS, "val loss 3.1574 (one seed)")
_HARD = Origin(f"{_EDMAN}, hard", "GLUE average 69.0 against 68.5 regular (means of 3)")

# What the tables of search_spaces/README.md and of `python -m tests.benchmarks.rules` say of every preset.
ORIGINS: dict[Preset, Origin] = {
    "published/random": _BASELINE,
    "published/accuracy-morph": _ACCURACY,
    "published/cms-morph": _RAW_LOSS,
    "published/amlm-hard": _HARD,
    "published/amlm-soft": Origin(f"{_EDMAN}, soft"),
    "published/amlm-hard-decay": Origin(f"{_EDMAN}, hard with rate decay", "GLUE average 70.1"),
    "published/amlm-hard-nhot": Origin(
        f"{_EDMAN}, hard with n-hot embeddings", "adjective nominalisation 43.7 against 35.3"
    ),
    **dict.fromkeys(
        (
            "published/amlm-hard-code",
            "published/amlm-soft-code",
            "published/amlm-hard-decay-code",
            "published/amlm-hard-nhot-code",
        ),
        Origin(_EDMAN_CODE),
    ),
    "random": _BASELINE,
    "accuracy_morph": _ACCURACY,
    "token_only": Origin(f"ours: an ablation that {_MORPH} asks for"),
    "trigram_only": Origin(f"ours: an ablation that {_MORPH} asks for"),
    "difficulty_band": Origin(f"ours: a filter that {_MORPH} asks for"),
    "cms_morph": _RAW_LOSS,
    "frequency": Origin(f"ours: a name of {_MORPH}"),
    "random_sketch_control": Origin(f"ours: a name of {_MORPH}"),
    "amlm": _HARD,
    "whole_word": Origin("BERT's released code (Devlin et al. 2019)"),
    "span": Origin("SpanBERT (Joshi et al. 2020), 3.1"),
    "rarity": Origin("ours"),
}
_NHOT: Tree = {"embedding": "nhot"}
_MODEL: dict[Preset, Tree] = {"published/amlm-hard-nhot": _NHOT, "published/amlm-hard-nhot-code": _NHOT}


def expand(params: Mapping[str, Any]) -> Tree:
    """Settings by dotted path, with `masking.preset` replaced by what it stands for; other settings win over it.

    An unknown name stays, for the Config to refuse. Shares end a schedule that the base settings have: without that,
    it would go on in their place.
    """
    whole = expand_tree({"masking": params["masking"]}) if "masking" in params else Tree()
    name = _preset_named(params.get("masking.preset"))
    rest = {path: value for path, value in params.items() if name is None or path != "masking.preset"}
    rule = {f"masking.{key}": value for key, value in _rule(name).items()} if name else Tree()
    shares = any(path == "masking.shares" or path.startswith("masking.shares.") for path in params)
    if shares and "masking.schedule" not in params:
        rule["masking.schedule"] = None
    model = {**whole.pop("model", {}), **(_MODEL.get(name, {}) if name else {})}
    return {**rule, **{f"model.{key}": value for key, value in model.items()}, **rest, **whole}


def expand_tree(tree: Any) -> Any:
    """The same for nested settings."""
    masking = tree.get("masking") if isinstance(tree, Mapping) else None
    name = _preset_named(masking.get("preset")) if isinstance(masking, Mapping) else None
    if masking is None or name is None:
        return tree
    given = {key: value for key, value in masking.items() if key != "preset"}
    expanded = {**tree, "masking": {**_rule(name), **given}}
    if name in _MODEL:
        model = tree.get("model", {})
        expanded["model"] = {**_MODEL[name], **model} if isinstance(model, Mapping) else model
    return expanded


def _rule(name: Preset) -> Tree:
    return deepcopy({**_RULE, **MASKING[name]})


def _preset_named(name: Any) -> Preset | None:
    return next((preset for preset in MASKING if preset == name), None)
