"""What a run trains on what, in words: for the model card, and for "Setup" in reports and papers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.trainable import BEGAN
from trainables import limits
from trainables.settings.catalogue import POLICIES, SOURCES
from trainables.settings.config import Beginning, Config, DataConfig, ModelConfig, OptimiserConfig
from trainables.settings.masking_rule import MaskingConfig, Replacements

PARTS = ("train", "val", "test")


def setup(config: Config, facts: Mapping[str, Any]) -> dict[str, str]:
    """Label -> text of what a configuration trains. facts: of `mlm.prepare`; what they lack is left out."""
    parts = facts.get("parts", {})
    counted = {
        "documents": _counts(parts, "documents"),
        "words": _counts(parts, "words"),
        "unknown tokens": ", ".join(
            f"{100 * parts[part]['unknown']:.4g} % of {part}" for part in PARTS if part in parts
        ),
    }
    entries = facts.get("vocabulary")
    return {
        "corpus": _corpus(config.data),
        **{label: text for label, text in counted.items() if text},
        "tokenizer": _tokenizer(config.data) + (f", {entries:,} entries" if entries else ""),
        "model": _model(config.model) + (f", {config.parameters(entries) / 1e6:.2f} M parameters" if entries else ""),
        BEGAN: _began(config.init_from) if config.init_from else "weights drawn from its seed",
        "batch": f"{config.batch_size:,} rows of {config.data.block:,} tokens" + _lengths(config),
        "optimiser": _optimiser(config.optimiser),
        "masking": masking(config.masking),
        "precision": config.precision,
    }


def _began(given: Beginning) -> str:
    step = limits.metadata(Path(given.bundle)).get("step")
    own = f"after {step:,} steps of their own run" if type(step) is int else "after steps of their own run"
    return f"the weights of {given.bundle} (SHA-256 {given.weights}), {own}, not counted here"


def _lengths(config: Config) -> str:
    """How long the rows are that the model sees, if not as long as those of the batch."""
    parts = [f"{tokens:,} from {_percent(share)} of the run on" for share, tokens in config.sequence_lengths or ()]
    return f", shown in rows of {', '.join(parts)}" if parts else ""


def masking(given: MaskingConfig) -> str:
    """The masking rule."""
    shown = given.replacement
    ways = ((shown.mask, "shown as [MASK]"), (shown.random, "as another token"), (shown.keep, "as they are"))
    put = ", ".join(f"{_percent(share, 1)} {way}" for share, way in ways)
    details = [*_rate_in_between(given), *([put] if shown != Replacements() else [])]
    if given.row_rates:
        details.append(f"at a rate of each row's own, {given.row_rates}, as many in every batch")
    if given.corrupt is not None:
        details.append(f"{_percent(given.corrupt, 1)} of all positions corrupted")
    if given.loss_weight:
        details.append(f"{_percent(given.loss_weight)} of a prediction's weight in the loss by its token's score")
    told = f" ({'; '.join(details)})" if details else ""
    predicted = f"with {_rate(given)} of the positions predicted{told}: "
    changing = _changing(given)
    if given.policy == "amlm":
        return f"{predicted}drawn by AMLM's {given.score} weights (Edman & Fraser 2025){_warmup(given)}{changing}"
    if given.policy != "mixture":
        return f"{predicted}{POLICIES[given.policy].words}"
    parts = _parts(dict(given.shares))
    if given.schedule and given.schedule.shares:
        points = given.schedule.shares
        of_run = (f"from {_percent(begin)} of the run on {_parts(dict(shares))}" for begin, shares in points)
        parts = f"{'; '.join(of_run)}{', linear in between' * (given.schedule.interpolate == 'linear')}"
    scored = given.largest_shares["token"] or given.largest_shares["trigram"] or given.loss_weight
    signal = f" (scores of {given.signal})" if scored else ""
    return predicted + parts + signal + _spans(given) + _warmup(given) + changing


def _warmup(given: MaskingConfig) -> str:
    """How long everything is drawn at random first, where the rule is another one and does not say so itself."""
    random = given.policy == "mixture" and given.largest_shares["random"] == 1
    return f", after {_percent(given.mask_warmup)} of the run at random" if given.mask_warmup and not random else ""


def _spans(given: MaskingConfig) -> str:
    """How long spans are, where there are some and SpanBERT's are others."""
    usual = (given.span_p, given.span_longest) == (0.2, 10)
    if usual or not given.largest_shares["span"]:
        return ""
    return f" (span lengths Geo({given.span_p:g}), at most {given.span_longest})"


def _changing(given: MaskingConfig) -> str:
    """The constants that change in the course of the run."""
    if not (given.schedule and given.schedule.constants):
        return ""
    to = " gradually to " if given.schedule.interpolate == "linear" else " to "
    series = []
    for name, points in given.schedule.constants.points.items():
        series.append(f"{name} from {to.join(f'{value:g} at {_percent(begin)}' for begin, value in points)}")
    return f"; {', '.join(series)} of the run"


def _rate(given: MaskingConfig) -> str:
    """The share of the positions that is predicted, at first and at last."""
    first, last = given.rates_of_run[0], given.rates_of_run[-1]
    if given.rate_schedule in ("constant", "step"):
        return _percent(first)
    return f"{_percent(first)} {'rising' if first < last else 'falling'} to {_percent(last)}"


def _rate_in_between(given: MaskingConfig) -> list[str]:
    if given.rate_schedule == "step":
        return [f"{_percent(rate)} from {_percent(begin)} of the run on" for begin, rate in (given.rates or ())[1:]]
    return {"cosine": ["along half a cosine"], "inverse": ["with 1 / rate linear"]}.get(given.rate_schedule, [])


def _parts(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{_percent(share, 1)} {SOURCES[source].words}" for source, share in shares.items() if share)


def _percent(share: float, decimals: int = 0) -> str:
    """As a percentage to six digits, so that no setting is rounded to another; with so many decimals at least."""
    text = f"{100 * share:g}"
    return f"{text if '.' in text or 'e' in text or not decimals else f'{100 * share:.{decimals}f}'}%"


def _counts(parts: Mapping[str, Mapping[str, Any]], key: str) -> str:
    return ", ".join(f"{parts[part][key]:,} {part}" for part in PARTS if part in parts)


def _corpus(data: DataConfig) -> str:
    named = {"validation": data.validation, "test": data.test}
    own = [f"{part} {place}" for part, place in named.items() if place]
    split = (
        f"{_percent(data.held_out)} of the documents in each held-out part, by a hash of their text, at most "
        f"{data.most('val'):,} tokens of val and {data.most('test'):,} of test"
    )
    corpus = "embedded (dialogue of the package chitchat-dataset)" if data.corpus == "embedded" else data.corpus
    return "; ".join([corpus, *own, *([split] if len(own) < len(named) else [])])


def _tokenizer(data: DataConfig) -> str:
    return f"{data.tokenizer}: WordPiece, trained on the train part" * data.tokenizer.startswith("train:") or (
        data.tokenizer
    )


def _model(model: ModelConfig) -> str:
    kind = "BERT" if model.compact else model.architecture
    shape = (
        f"{kind}, {model.layers} layers of {model.hidden} channels, {model.heads} heads, {model.intermediate} in the "
        f"feed-forward blocks, {model.max_positions} positions, dropout {model.dropout:g}"
    )
    start = ", the first layer starts by attending to its neighbours" * (model.start == "neighbours")
    options = f", {', '.join(f'{name} {value}' for name, value in model.options.items())}" * bool(model.options)
    return shape + options + ", n-hot embeddings" * (model.embedding == "nhot") + start


def _optimiser(given: OptimiserConfig) -> str:
    late = f"over the last {_percent(given.lr_decay)}"
    falls = {"trapezoid": f"linear decay to 0 {late}", "warmup-stable-decay": f"1 - sqrt decay to 0 {late}"}
    fall = falls.get(given.schedule, f"{given.schedule} decay to 0")
    return (
        f"{'AdamW' if given.name == 'adamw' else 'LAMB'}, learning rate {given.lr:g}, linear warm-up over "
        f"{_percent(given.lr_warmup)} of the steps and {fall}, weight decay {given.weight_decay:g}, betas "
        f"{given.beta1:g} and {given.beta2:g}, gradients clipped at {given.clip:g}"
    )
