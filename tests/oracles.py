"""Every masking rule against its slow and obvious version: `python -m tests.oracles [--json]` prints the differences.

Made-up answers, real text: the first conversations of the embedded corpus, through the package's own preparation.
Exit status 0 where every difference is within what is allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer

from tests.trainables import obvious
from tests.trainables.drawn import DRAWS, EXACT, Compared, Row, alone, answered, furthest, published_rounding
from tests.trainables.laboratory import LABORATORY
from trainables.data import batches as batches_module
from trainables.data import collocations, corpus, relevance
from trainables.masking import amlm, mixture, sources
from trainables.masking.policy import Answers, MaskingPolicy, Vocabulary
from trainables.noise import StepNoise
from trainables.settings.config import Config, DataConfig
from trainables.settings.presets import Preset

CLOSE = 1e-12  # for what is counted once, without sums over batches
BATCHES, ROWS, LENGTH = 1_000, 6, 32  # 29 of a batch: their upper quartile is one of them, not between two


def prepared_slice(folder: Path) -> batches_module.Prepared:
    """400 conversations with a WordPiece of 1,000 entries, prepared in $SWEEPER_CACHE."""
    path = folder / "slice.txt"
    path.write_text("\n\n".join(islice(corpus.Embedded().texts(), 400)), "utf-8")
    return batches_module.prepare(slice_settings(f"files:{path}"))


def slice_settings(text: str) -> DataConfig:
    """How the slice is prepared."""
    return DataConfig(corpus=text, tokenizer="train:1000", block=LENGTH, held_out=0.1)


def settled(
    prepared: batches_module.Prepared, steps: int = BATCHES, **settings: Any
) -> Iterator[tuple[int, MaskingPolicy, Row, Answers]]:
    """Batches of real text; after each: the step, the policy, the batch, and the answers of what it selected."""
    config = Config.model_validate({"steps": steps, "batch_size": ROWS, "data": {"block": LENGTH}, "masking": settings})
    strings = prepared.token_strings
    vocabulary = Vocabulary(prepared.forms, np.asarray(prepared.eligible), np.asarray(prepared.unigram))
    policy = mixture.build(config, vocabulary, slice(0, ROWS), 7, "cpu")
    batches, draw = batches_module.Batches(prepared, ROWS, 7), np.random.default_rng(7)
    for step in range(steps):
        ids = torch.from_numpy(batches.tokens(step))
        selection = policy.select(ids, StepNoise(7, 0, step, (ROWS, LENGTH)))
        answers = answered(draw, ids.flatten()[selection.positions[selection.weight > 0]])
        slots = [
            torch.nn.functional.pad(part, (0, len(selection.weight) - len(part)))
            for part in answers
            if part is not None
        ]
        policy.observe(selection, Answers(*slots), alone)
        if config.refreshes(step + 1):
            policy.refresh(alone)
        yield step, policy, [strings[i] for i in ids.flatten().tolist()], answers
    policy.metrics(alone)


def morph(
    name: str, settings: Mapping[str, Any], slow: obvious.Morph, prepared: batches_module.Prepared
) -> list[Compared]:
    """Counts and scores after every refresh in 1,000 batches. Shuffled scores are compared in order of size."""
    strings, every = prepared.token_strings, 100
    low, high = settings.get("band_low", 0.0), settings.get("band_high", np.inf)
    differences = dict.fromkeys(("counts by token and trigram", "scores by token", "scores by trigram"), 0.0)
    for step, policy, _, answers in settled(prepared, **settings, update_every=every):
        assert isinstance(policy, mixture.Mixture)
        right = (answers.predictions == answers.labels).tolist()
        slow.observe([strings[i] for i in answers.labels.tolist()], right)
        if (step + 1) % every:
            continue
        slow.refresh()
        counts, found = [], policy.difficulty
        for kind, keys, store in (
            ("token ", found.token_keys, found.token_store),
            ("trigram ", found.trigram_keys, found.trigram_store),
        ):
            for key, seen, hard in zip(keys.names, *store.counts(), strict=True):
                counts += [seen - slow.seen.get(kind + key, 0.0), hard - slow.hard.get(kind + key, 0.0)]
        fast = [np.exp(source.log_score.numpy()) for source in (policy.token, policy.trigram)]
        scores = [[one(token) for token in strings] for one in (slow.token_score, slow.trigram_score)]
        scores = [[score if low <= score <= high else 0.0 for score in part] for part in scores]
        if settings["preset"] == "random_sketch_control":
            assert furthest(fast[0], scores[0]) > 0.1
            fast, scores = ([sorted(part) for part in parts] for parts in (fast, scores))
        new = [furthest(counts, 0), *map(furthest, fast, scores)]
        differences = dict(zip(differences, map(max, differences.values(), new), strict=True))
    assert sum(slow.seen.values()) > 29 * BATCHES / 2
    return [Compared(name, what, difference, EXACT) for what, difference in differences.items()]


def moving(
    name: str,
    settings: Mapping[str, Any],
    make: Callable[[int], obvious.Morph],
    prepared: batches_module.Prepared,
    every: int = 100,
) -> list[Compared]:
    """Scores after every refresh in 1,000 batches, by other signals and by constants that change in the run."""
    strings, slow = prepared.token_strings, make(len(prepared.token_strings))
    given = Config.model_validate({"masking": settings}).masking
    points = given.schedule.constants.points if given.schedule and given.schedule.constants else {}
    gradual = given.schedule is not None and given.schedule.interpolate == "linear"
    worst, positive = [0.0, 0.0, 0.0], 0
    for step, policy, _, answers in settled(prepared, **settings, update_every=every):
        assert isinstance(policy, mixture.Mixture)
        tokens = [strings[i] for i in answers.labels.tolist()]
        if isinstance(slow, obvious.Entropies):
            values = answers.losses if isinstance(slow, obvious.Progress) else answers.entropies
            assert values is not None
            slow.observe_values(tokens, values.tolist())
        else:
            slow.observe(tokens, (answers.predictions == answers.labels).tolist())
        if (step + 1) % every:
            continue
        now = {key: obvious.of_moment(each, step + 1, BATCHES, gradual) for key, each in points.items()}
        slow.decay, slow.a = now.get("ema_decay", slow.decay), now.get("smoothing", slow.a)
        slow.min_seen, slow.cap = now.get("min_seen", slow.min_seen), now.get("cap", slow.cap)
        slow.refresh()
        fast = [np.exp(source.log_score.numpy()) for source in (policy.token, policy.trigram)]
        scores = [[one(token) for token in strings] for one in (slow.token_score, slow.trigram_score)]
        low, high = now.get("band_low", 0.0), now.get("band_high", np.inf)
        scores = [[score if low <= score <= high else 0.0 for score in part] for part in scores]
        positive += sum(score > 0 for score in scores[0])
        rarest = 0.0
        if "rarity_power" in now:
            frequency = np.asarray(prepared.unigram).tolist()
            (source,) = (source for _, source in policy.others if source.name == "rarity")
            assert isinstance(source, sources.Rarity)
            rarest = furthest(np.exp(source.log_score), obvious.rarity_weights(frequency, now["rarity_power"]))
        worst = list(map(max, worst, [*map(furthest, fast, scores), rarest]))
    assert positive > 100
    kinds = ("scores by token", "scores by trigram", *(("weights by rarity",) if "rarity_power" in points else ()))
    return [Compared(name, kind, one, EXACT) for kind, one in zip(kinds, worst, strict=False)]


def cms(
    name: str, settings: Mapping[str, Any], prepared: batches_module.Prepared, batches: int = 40, every: int = 1
) -> list[Compared]:
    """CMS-Morph's counts and scores after each of some batches from the end of its warm-up, or after every so many."""
    strings, warmup, slow = prepared.token_strings, round(0.1 * BATCHES), obvious.Cms(settings.get("cap", 5.0))
    worst, capped = [0.0, 0.0, 0.0], False
    for step, policy, _, answers in settled(prepared, preset="published/cms-morph", **settings):
        assert isinstance(policy, mixture.Mixture)
        found = policy.difficulty
        if step < warmup:
            assert not any(table.any() for table in (found.window, found.token_store.table, found.trigram_store.table))
            continue
        slow.batch([strings[i] for i in answers.labels.tolist()], answers.losses.tolist())
        if (step + 1 - warmup) % every == 0:
            counts = []
            for kind, keys, store in (
                ("token ", found.token_keys, found.token_store),
                ("trigram ", found.trigram_keys, found.trigram_store),
            ):
                counts += [
                    high - slow.counts[kind + key] for key, high in zip(keys.names, store.counts()[1], strict=True)
                ]
            fast = [np.exp(source.log_score.numpy()) for source in (policy.token, policy.trigram)]
            scores = [[one(token) for token in strings] for one in (slow.token_score, slow.trigram_score)]
            worst = list(map(max, worst, [furthest(counts, 0), *map(furthest, fast, scores)]))
            capped |= slow.cap in scores[1]
        if step + 1 == warmup + batches:
            policy.metrics(alone)
            break
    assert sum(slow.counts.values()) > 2 * 29 * batches / 4
    assert capped == ("cap" in settings or batches > 500)
    when = f"after each of {batches} batches" if every == 1 else f"after every {every} of {batches} batches"
    kinds = ("counts by token and trigram", "scores by token", "scores by trigram")
    return [Compared(name, f"{kind} {when}", one, EXACT) for kind, one in zip(kinds, worst, strict=True)]


def frequency(prepared: batches_module.Prepared) -> list[Compared]:
    worst = [0.0, 0.0]
    index = {token: i for i, token in enumerate(prepared.token_strings)}
    for _, policy, batch, _ in settled(prepared, preset="frequency", mask_warmup=0):
        assert isinstance(policy, mixture.Mixture)
        for i, (source, slow) in enumerate(
            zip((policy.token, policy.trigram), obvious.frequency_weights(batch), strict=True)
        ):
            fast = np.exp(source.log_score.numpy()[[index[token] for token in slow]])
            worst[i] = max(worst[i], furthest(fast, list(slow.values())))
    return [
        Compared("frequency", f"weights by {what} in 1,000 batches", difference, EXACT)
        for what, difference in zip(("token", "trigram"), worst, strict=True)
    ]


def weights(name: str, settings: Mapping[str, Any], prepared: batches_module.Prepared) -> list[Compared]:
    """AMLM's weights after each of 5 updates, one every 200 of 1,000 batches."""
    options = {key: settings[key] for key in ("floor", "pseudo_count", "renormalise") if key in settings}
    linear = settings["preset"].endswith("decay")
    soft = settings["preset"].endswith("soft")
    slow = obvious.Amlm(len(prepared.token_strings), 0.40 if linear else 0.15, 0.2, soft, **options)
    differences: list[float] = []
    for step, policy, _, answers in settled(prepared, **settings, update_every=200):
        right = (answers.predictions == answers.labels).tolist()
        slow.observe(answers.labels.tolist(), right, answers.losses.tolist(), answers.masked.tolist())
        if (step + 1) % 200 == 0:
            slow.rate = 0.40 - 0.25 * step / (BATCHES - 1) if linear else 0.15
            slow.refresh()
            differences.append(furthest(policy.scores()["token"], slow.weight))
    assert len(differences) == 5
    return [Compared(name, "weights after each of 5 updates", max(differences), EXACT)]


def code(
    name: str, settings: Mapping[str, Any], prepared: batches_module.Prepared, update_every: int = 200
) -> list[Compared]:
    """AMLM's code: when its weights are renewed, what they and the probabilities of the next batch's rows are."""
    steps, preset = 5 * update_every + 1, settings["preset"]
    slow = obvious.AmlmCode(len(prepared.token_strings), "soft" in preset, "decay" in preset, steps, update_every)
    index = {token: i for i, token in enumerate(prepared.token_strings)}
    refreshed, worst, weight = 0, [0.0, 0.0, 0.0], np.array(slow.weight)
    for step, policy, batch, answers in settled(prepared, steps, **settings, replicate=True, update_every=update_every):
        assert isinstance(policy, amlm.Amlm)
        rows = np.array([index[token] for token in batch]).reshape(ROWS, LENGTH)
        due = torch.full((ROWS,), policy.rate * LENGTH, dtype=torch.float64)
        fast = amlm.proportional(torch.from_numpy(weight)[torch.from_numpy(rows)], due)
        slower = [slow.chances(row, step) for row in rows.tolist()]
        right = (answers.predictions == answers.labels).tolist()
        seen = (answers.labels.tolist(), right, answers.losses.tolist(), answers.masked.tolist())
        refreshed += slow.batch(step, *seen)
        weight = policy.scores()["token"]
        new = [abs(policy.rate - slow.rate(step)), furthest(weight, slow.weight), furthest(fast, slower)]
        worst = list(map(max, worst, new))
    assert refreshed == 5
    kinds = ("rate in every batch", "weights, renewed five times", "probabilities in every batch")
    return [Compared(name, kind, one, EXACT) for kind, one in zip(kinds, worst, strict=True)]


def loss_weights(prepared: batches_module.Prepared, share: float = 0.2) -> list[Compared]:
    """What a token's loss counts, after every 50th of 320 batches, and of the positions of the batches after those."""
    strings, slow, worst, places = prepared.token_strings, obvious.Morph(1.0, 1.0, 3.0, 0.9), 0.0, 0.0
    eligible = np.asarray(prepared.eligible)
    chances = {token: float(p) for token, p, may in zip(strings, prepared.unigram, eligible, strict=True) if may}
    rule = {"preset": "rho_like", "loss_weight": share, "mask_warmup": 0.2, "update_every": 50}
    index = {token: i for i, token in enumerate(strings)}
    for step, policy, batch, answers in settled(prepared, 320, **rule):
        assert isinstance(policy, mixture.Mixture)
        ids = torch.tensor([index[token] for token in batch]).view(ROWS, LENGTH)
        if step % 50 == 0 and step:
            selection = policy.select(ids, StepNoise(7, 0, step, (ROWS, LENGTH)))
            assert (selection.loss_weight is None) == (step < 64)
            if selection.loss_weight is not None:
                used = selection.weight > 0
                expected = policy.loss_weight_V[ids.flatten()[selection.positions[used]]]
                places = max(places, furthest(selection.loss_weight[used], expected))
        slow.observe([strings[i] for i in answers.labels.tolist()], (answers.predictions == answers.labels).tolist())
        if (step + 1) % 50 == 0:
            slow.refresh()
            scores = {token: slow.token_score(token) for token in strings}
            weights = [obvious.loss_weight(scores[token], scores, chances, share) for token in strings]
            worst = max(worst, furthest(policy.loss_weight_V, weights))
            assert min(weights) < 1 < 1.05 < max(weights)
    return [
        Compared("rho_like", "weights by token after each of 6 refreshes", worst, IN_FLOAT32),
        Compared("rho_like", "weights of the selected positions", places, 0),
    ]


IN_FLOAT32 = 1e-5


def lines_of(prepared: batches_module.Prepared) -> list[obvious.Line]:
    """The train part by lines, each as its words: read, divided and encoded line by line, as far as it was kept."""
    named = prepared.facts["corpus"]
    text = corpus.divide(slice_settings(named), corpus.find(named, Path()), None, None).train
    tool = Tokenizer.from_file(str(prepared.tokenizer_files() / "tokenizer.json"))
    left, lines = len(prepared.tokens), list[obvious.Line]()
    for line in (line for document in text for line in document.text.split("\n")):
        encoding = tool.encode(line, add_special_tokens=False)
        pieces = list(zip(encoding.word_ids, encoding.ids, strict=True))[:left]
        left -= len(pieces)
        lines.append([tuple(i for _, i in word) for _, word in groupby(pieces, key=lambda piece: piece[0])])
    assert [i for line in lines for word in line for i in word] == prepared.tokens.tolist()
    return lines


def collocation_values(prepared: batches_module.Prepared) -> list[Compared]:
    """Every frequent sequence of 2 to 5 words and its PMI, from the text itself."""
    unknown = prepared.token_strings.index("[UNK]")
    lines = lines_of(prepared)
    words = [word for line in lines for word in line]
    due = obvious.collocations([[() if unknown in word else word for word in line] for line in lines])
    starts = [np.array([at == 0 for word in part for at in range(len(word))]) for part in (words, map(sum_of, lines))]
    found = collocations.sequences(prepared.tokens, starts[0], starts[1], np.asarray(prepared.eligible))
    fast = {
        tuple(words[place : place + length]): float(one.pmi[kind])
        for length, one in found.items()
        for place, kind in zip(one.places.tolist(), one.kind.tolist(), strict=True)
    }
    assert {*map(len, due)} == {2, 3, 4, 5}
    wrong = len(fast.keys() ^ due.keys())
    return [
        Compared("pmi", f"which of {len(due)} sequences are frequent, wrong ones", wrong, 0),
        Compared("pmi", f"PMI of {len(due)} sequences", furthest([fast[w] for w in due], [*due.values()]), CLOSE),
    ]


def sum_of(line: obvious.Line) -> tuple[int, ...]:
    """A line as one word."""
    return tuple(i for word in line for i in word)


def relevance_values(prepared: batches_module.Prepared) -> list[Compared]:
    """The relevance of every entry, from the text itself."""
    lines, longest = [*map(sum_of, lines_of(prepared))], relevance.LONGEST
    known = [[i for i in line if prepared.eligible[i]] for line in lines]
    pieces = [line[at : at + longest] for line in known for at in range(0, len(line), longest)]
    due = obvious.relevance(pieces, prepared.vocab_size)
    return [
        Compared("informask", f"relevance of {prepared.vocab_size} entries", furthest(prepared.relevance, due), CLOSE)
    ]


TEXTS = {"collocations": collocation_values, "relevance": relevance_values}
PUBLISHED = "published/accuracy-morph"
MORPHS: dict[str, tuple[dict[str, Any], Callable[[], obvious.Morph]]] = {
    "accuracy-morph": ({"preset": PUBLISHED}, lambda: obvious.Morph(1.0, 1.0, 3, 0.9)),
    "accuracy-morph, count_min": (
        {"preset": PUBLISHED, "sketch": "count_min"},
        lambda: obvious.Morph(1.0, 1.0, 3, 0.9),
    ),
    "accuracy-morph, ema_decay 0.7": ({"preset": PUBLISHED, "ema_decay": 0.7}, lambda: obvious.Morph(0.7, 1.0, 3, 0.9)),
    "accuracy-morph, as printed": (
        {"preset": PUBLISHED, "smoothing": 0.5, "min_seen": 0},
        lambda: obvious.Morph(1.0, 0.5, 0, 0.9),
    ),
    "difficulty band": (
        {"preset": "difficulty_band", "band_low": 0.3, "band_high": 0.8},
        lambda: obvious.Morph(1.0, 1.0, 3, 0.9),
    ),
    "random_sketch_control": ({"preset": "random_sketch_control"}, lambda: obvious.Morph(1.0, 1.0, 3, 0.9)),
}
MOVING: dict[str, tuple[dict[str, Any], Callable[[int], obvious.Morph]]] = {
    "entropy": ({"preset": "entropy"}, lambda size: obvious.Entropies(size, 1.0, 3, 0.9)),
    "entropy, ema_decay 0.5, cap 0.2": (
        {"preset": "entropy", "ema_decay": 0.5, "cap": 0.2, "min_seen": 0},
        lambda size: obvious.Entropies(size, 0.5, 0, 0.2),
    ),
    "learning_progress": ({"preset": "learning_progress"}, lambda size: obvious.Progress(size, 0.9, 30, 0.9)),
    "learning_progress, ema_decay 0": (
        {"preset": "learning_progress", "ema_decay": 0, "min_seen": 3},
        lambda size: obvious.Progress(size, 0.0, 3, 0.9),
    ),
    "learning_progress, ema_decay 0.6": (
        {"preset": "learning_progress", "ema_decay": 0.6, "min_seen": 5},
        lambda size: obvious.Progress(size, 0.6, 5, 0.9),
    ),
    "easy_to_hard": ({"preset": "easy_to_hard"}, lambda _: obvious.Morph(1.0, 1.0, 3, 0.9)),
    "hard_to_easy": ({"preset": "hard_to_easy"}, lambda _: obvious.Morph(1.0, 1.0, 3, 0.9)),
    "accuracy-morph, all constants in steps": (
        {
            "shares": {"random": 0.5, "token": 0.2, "trigram": 0.1, "rarity": 0.2},
            "schedule": {
                "constants": {
                    "ema_decay": [[0, 1.0], [0.35, 0.4], [0.8, 0.9]],
                    "smoothing": [[0, 1.0], [0.5, 0.2]],
                    "min_seen": [[0, 3], [0.6, 20]],
                    "cap": [[0, 0.9], [0.2, 0.6]],
                    "band_low": [[0, 0.0], [0.4, 0.3]],
                    "rarity_power": [[0, 1.0], [0.45, 3.0]],
                }
            },
        },
        lambda _: obvious.Morph(1.0, 1.0, 3, 0.9),
    ),
}
CMSES: dict[str, dict[str, Any]] = {
    "cms-morph": {},
    "cms-morph, cap 1.5": {"cap": 1.5},
    "cms-morph, replicate": {"replicate": True},
    "cms-morph, count_min": {"sketch": "count_min"},
}
CODES: dict[str, dict[str, Any]] = {
    "amlm's code, hard": {"preset": "published/amlm-hard-code"},
    "amlm's code, soft": {"preset": "published/amlm-soft-code"},
    "amlm's code, rate decay": {"preset": "published/amlm-hard-decay-code"},
}
AMLMS: dict[str, dict[str, Any]] = {
    "amlm hard": {"preset": "published/amlm-hard"},
    "amlm soft": {"preset": "published/amlm-soft"},
    "amlm soft, pseudo_count 1": {"preset": "published/amlm-soft", "pseudo_count": 1},
    "amlm hard, floor, renormalised": {"preset": "published/amlm-hard", "floor": 0.06, "renormalise": True},
    "amlm hard, bernoulli": {"preset": "published/amlm-hard", "draw": "bernoulli"},
    "amlm hard, rate decay": {"preset": "published/amlm-hard-decay"},
}

# By preset, the policies of the table's rows that hold its rule; its draws are those of its policy or its sources.
_MIXED, _EXACT = ("random", "accuracy-morph"), ("amlm", "amlm exact", "random")
ORACLES_OF: dict[Preset, tuple[str, ...]] = {
    **dict.fromkeys(("published/random", "random"), ("random",)),
    **dict.fromkeys(("published/accuracy-morph", "accuracy_morph", "token_only", "trigram_only"), _MIXED),
    "difficulty_band": ("difficulty band", *_MIXED),
    **dict.fromkeys(("published/cms-morph", "cms_morph"), ("cms-morph", *_MIXED)),
    "frequency": ("frequency", *_MIXED),
    "random_sketch_control": ("random_sketch_control", *_MIXED),
    **dict.fromkeys(("published/amlm-hard", "published/amlm-hard-nhot", "amlm"), ("amlm hard", *_EXACT)),
    "published/amlm-soft": ("amlm soft", *_EXACT),
    "published/amlm-hard-decay": ("amlm hard, rate decay", *_EXACT),
    **dict.fromkeys(("published/amlm-hard-code", "published/amlm-hard-nhot-code"), ("amlm's code, hard", *_EXACT)),
    "published/amlm-soft-code": ("amlm's code, soft", *_EXACT),
    "published/amlm-hard-decay-code": ("amlm's code, rate decay", *_EXACT),
    "whole_word": ("whole-word",),
    "span": ("span, p 0.2, at most 10",),
    "rarity": ("rarity", "random"),
    "rate_linear": ("rate linear", "random"),
    "rate_cosine": ("rate cosine", "random"),
    "rate_inverse": ("rate inverse", "random"),
    "rate_steps": ("rate step", "random"),
    "row_uniform": ("rows uniform", "random"),
    "row_cosine": ("rows cosine", "random"),
    "dense_corruption": ("corrupt 0.4, random", "random"),
    "sparse_corruption": ("corrupt 0.1, random", "random"),
    "mask_only": ("random",),
    "rho_like": ("rho_like", "random"),
    "pmi": ("pmi",),
    "informask": ("informask", "random"),
    "span_short": ("span, p 0.4, at most 4",),
    "rarity_ramp": ("rarity", "random"),
    "words_then_tokens": ("whole-word", "random"),
    "easy_to_hard": ("easy_to_hard", *_MIXED),
    "hard_to_easy": ("hard_to_easy", *_MIXED),
    "entropy": ("entropy", *_MIXED),
    "learning_progress": ("learning_progress", *_MIXED),
}


def table(prepared: batches_module.Prepared) -> list[Compared]:
    """All comparisons."""
    rows = [row for name, (settings, slow) in MORPHS.items() for row in morph(name, settings, slow(), prepared)]
    rows += [row for name, (settings, slow) in MOVING.items() for row in moving(name, settings, slow, prepared)]
    rows += [row for name, settings in CMSES.items() for row in cms(name, settings, prepared)]
    rows += cms("cms-morph", {}, prepared, batches=900, every=100)
    rows += frequency(prepared)
    rows += [row for name, settings in AMLMS.items() for row in weights(name, settings, prepared)]
    rows += [row for name, settings in CODES.items() for row in code(name, settings, prepared)]
    rows += published_rounding(every=1)
    rows += loss_weights(prepared)
    rows += [row for compare in TEXTS.values() for row in compare(prepared)]
    return rows + [row for compare in (*DRAWS, *LABORATORY) for row in compare()]


def all_rows() -> list[Compared]:
    """The table, of text prepared in a cache of its own, on one thread."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, SWEEPER_CACHE=folder):
        return table(prepared_slice(Path(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracles", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args()
    rows = all_rows()
    if options.json:
        print(json.dumps([{**asdict(row), "held": row.held} for row in rows]))
    else:
        print("| policy | what was compared | largest difference | allowed |\n|---|---|---|---|")
        for row in rows:
            print(f"| {row.policy} | {row.what} | {row.difference:.2g} | {row.allowed:g} |")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
