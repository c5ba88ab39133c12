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
    "span_short",
    "rarity",
    "rate_linear",
    "rate_cosine",
    "rate_inverse",
    "rate_steps",
    "row_uniform",
    "row_cosine",
    "dense_corruption",
    "sparse_corruption",
    "mask_only",
    "rho_like",
    "rarity_ramp",
    "words_then_tokens",
    "easy_to_hard",
    "hard_to_easy",
    "entropy",
    "learning_progress",
    "pmi",
    "informask",
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
    "rates": None,
    "row_rates": None,
    "corrupt": None,
    "loss_weight": 0.0,
    "loss_quantile": 0.75,
    "rarity_power": 1.0,
    "span_p": 0.2,
    "span_longest": 10,
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
# Random masking from the first step, for what changes something else than the positions.
_PLAIN: Tree = {"shares": {"random": 1.0}, "mask_warmup": 0.0}
_FALLING: Tree = {**_PLAIN, "rate_start": 0.30}
_EASY_TO_HARD: Tree = {"band_low": [[0, 0.0], [1, 0.5]], "band_high": [[0, 0.5], [1, 1.0]]}
_HARD_TO_EASY: Tree = {"band_low": [[0, 0.5], [1, 0.0]], "band_high": [[0, 1.0], [1, 0.5]]}
# The positive part of the difference of two means: by 3 losses each, noise alone would rank tokens. So 30 are needed in
# the last window, and those before count for about ten windows.
_PROGRESS: Tree = {"signal": "progress", "ema_decay": 0.9, "min_seen": 30.0}

# Accuracy-Morph and CMS-Morph (BabyLM 2026), AMLM (Edman & Fraser, BabyLM 2025), and rules of our own. `frequency` and
# `random_sketch_control` take their names from Accuracy-Morph's study, but the rules are ours: there, frequency has the
# whole budget from step 1, by id and without trigrams, and the control draws uniformly through the heavy-hitter code,
# at 50/25/25. The moving bands, `entropy` and `learning_progress` are ours; `rarity_ramp` and `words_then_tokens`
# follow entries of BabyLM 2025 and 2026.
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
    "span_short": {"shares": {"random": 0.0, "span": 1.0}, "mask_warmup": 0.0, "span_p": 0.4, "span_longest": 4},
    "rarity": {"shares": {"random": 0.8, "rarity": 0.2}, "mask_warmup": 0.0},
    "rate_linear": {**_FALLING, "rate_schedule": "linear"},
    "rate_cosine": {**_FALLING, "rate_schedule": "cosine"},
    "rate_inverse": {**_FALLING, "rate_schedule": "inverse"},
    "rate_steps": {**_PLAIN, "rate_schedule": "step", "rates": [[0, 0.30], [0.7, 0.15], [0.9, 0.05]]},
    "row_uniform": {**_PLAIN, "row_rates": "uniform"},
    "row_cosine": {**_PLAIN, "row_rates": "cosine"},
    "dense_corruption": {**_PLAIN, "corrupt": 0.40},
    "sparse_corruption": {**_PLAIN, "corrupt": 0.10},
    "mask_only": {**_PLAIN, "replacement": {"mask": 1.0, "random": 0.0, "keep": 0.0}},
    "rho_like": {"shares": {"random": 1.0}, "loss_weight": 0.2},
    "rarity_ramp": {
        **_PLAIN,
        "schedule": {"shares": [[0, {"random": 1.0}], [1, {"random": 0.6, "rarity": 0.4}]], "interpolate": "linear"},
    },
    "words_then_tokens": {**_PLAIN, "schedule": {"switch": "whole_word to random", "at": 0.7}},
    "easy_to_hard": {"schedule": {"constants": _EASY_TO_HARD, "interpolate": "linear"}},
    "hard_to_easy": {"schedule": {"constants": _HARD_TO_EASY, "interpolate": "linear"}},
    "entropy": {"signal": "entropy"},
    "learning_progress": _PROGRESS,
    "pmi": {"shares": {"random": 0.0, "pmi": 1.0}, "mask_warmup": 0.0},
    "informask": {"shares": {"random": 0.8, "informask": 0.2}, "mask_warmup": 0.0},
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
    "rate_linear": Origin("Ankner et al. 2024 (arXiv 2305.15096)"),
    "rate_cosine": Origin("ours"),
    "rate_inverse": Origin("ours"),
    "rate_steps": Origin("mmBERT (Marone et al. 2025)"),
    "row_uniform": Origin("after masked diffusion (LLaDA, Nie et al. 2025)"),
    "row_cosine": Origin("MaskGIT (Chang et al. 2022)"),
    "dense_corruption": Origin("after Wettig et al. 2023, section 5"),
    "sparse_corruption": Origin("after Wettig et al. 2023, section 5"),
    "mask_only": Origin("Wettig et al. 2023, section 6"),
    "rho_like": Origin("ours, after Rho-1 (Lin et al. 2024)"),
    "pmi": Origin("PMI-Masking (Levine et al. 2021)"),
    "informask": Origin("after InforMask (Sadeq et al. 2022)"),
    "span_short": Origin("ours"),
    "rarity_ramp": Origin("after an entry to BabyLM 2025 (paper 38)"),
    "words_then_tokens": Origin("the leading entry of BabyLM 2026"),
    "easy_to_hard": Origin(f"ours: a filter that {_MORPH} asks for"),
    "hard_to_easy": Origin(f"ours: a filter that {_MORPH} asks for"),
    "entropy": Origin("ours: predictive entropy"),
    "learning_progress": Origin("ours, after Graves et al. 2017"),
}
_NHOT: Tree = {"embedding": "nhot"}
_SWITCHED = ("masking.schedule.switch", "masking.schedule.at")
_SCHEDULED = ("masking.schedule.shares", *_SWITCHED)  # what says how shares change
_MODEL: dict[Preset, Tree] = {"published/amlm-hard-nhot": _NHOT, "published/amlm-hard-nhot-code": _NHOT}


def expand(params: Mapping[str, Any]) -> Tree:
    """Settings by dotted path, with `masking.preset` replaced by what it stands for; other settings win over it.

    An unknown name stays, for the Config to refuse. Shares end those of a schedule that the base settings or the preset
    have: without that, they would go on in their place. So do a schedule's own shares and its switch, each the other.
    """
    whole = expand_tree({"masking": params["masking"]}) if "masking" in params else Tree()
    name = _preset_named(params.get("masking.preset"))
    rest = {path: value for path, value in params.items() if name is None or path != "masking.preset"}
    rule = {f"masking.{key}": value for key, value in _rule(name).items()} if name else Tree()
    shares = any(path == "masking.shares" or path.startswith("masking.shares.") for path in params)
    given = [path for path in ("masking.schedule", *_SCHEDULED) if path in params]
    if shares and not given:
        rule |= dict.fromkeys(_SCHEDULED)
    elif given == ["masking.schedule.shares"]:
        rule |= dict.fromkeys(_SWITCHED)
    elif "masking.schedule.switch" in given and "masking.schedule.shares" not in given:
        rule |= {"masking.schedule.shares": None}
    elif given == ["masking.schedule.at"] and "switch" not in (rule.get("masking.schedule") or {}):
        rule |= {"masking.schedule.switch": None}  # the base's is shares by the time that trials run
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
