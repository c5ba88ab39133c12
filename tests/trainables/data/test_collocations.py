"""PMI masking's collocations and InforMask's relevance, against slow and obvious versions of both."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables import obvious
from trainables import mlm
from trainables.data import batches, relevance
from trainables.data.batches import Batches, Prepared
from trainables.data.collocations import Units, from_left, sequences, units
from trainables.noise import StepNoise
from trainables.settings.config import DataConfig
from trainables.settings.overrides import override

SIZE, CPU = 40, torch.device("cpu")
ALL = np.ones(SIZE, np.bool_)
Word = tuple[int, ...]


def drawn(seed: int, lines: int = 400) -> list[list[Word]]:
    """Lines of words of one or two tokens, with phrases that come again and again, some inside others."""
    draw = np.random.default_rng(seed)
    words: list[Word] = [(i,) for i in range(20)] + [(i, i + 1) for i in range(20, 30)]
    phrases = [[words[int(i)] for i in draw.integers(0, 30, length)] for length in (2, 2, 3, 3, 4, 5, 5)]
    phrases += [phrases[4][:3], phrases[5][1:], [*phrases[0], *phrases[1]]]
    text = list[list[Word]]()
    for length in draw.integers(0, 7, lines):
        line = list[Word]()
        for kind in draw.random(int(length)):
            line += phrases[int(kind * 20)] if kind < 0.5 else [words[int(draw.integers(30))]]
        text.append(line)
    return text


def flat(text: list[list[Word]]) -> tuple[Any, Any, Any]:
    """ids, word starts and line starts."""
    ids = [token for line in text for word in line for token in word]
    starts = [place == 0 for line in text for word in line for place in range(len(word))]
    lines = [at == 0 for line in text for at in range(sum(map(len, line)))]
    return np.array(ids, np.uint16), np.array(starts), np.array(lines)


def found_pmi(text: list[list[Word]], eligible: Any) -> dict[tuple[Word, ...], float]:
    words = [word for line in text for word in line]
    found = dict[tuple[Word, ...], float]()
    for length, one in sequences(*flat(text), eligible).items():
        for place, kind in zip(one.places.tolist(), one.kind.tolist(), strict=True):
            key = tuple(words[place : place + length])
            assert found.setdefault(key, float(one.pmi[kind])) == one.pmi[kind]
        assert len(one.pmi) == len({*one.kind.tolist()})
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("unknown", [None, 7])
def test_every_collocation_and_its_pmi_are_those_of_a_loop(seed: int, unknown: int | None) -> None:
    text, eligible = drawn(seed), ALL.copy()
    if unknown is not None:
        eligible[unknown] = False
    due = obvious.collocations([[() if unknown in word else word for word in line] for line in text])
    found = found_pmi(text, eligible)
    assert found.keys() == due.keys()
    assert {*map(len, found)} == {2, 3, 4, 5}
    assert max(abs(found[words] - due[words]) for words in due) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_units_are_those_of_a_loop(seed: int) -> None:
    text = drawn(seed)
    chosen = obvious.vocabulary_of(text)
    made = units(*flat(text), ALL)
    starts, inside = list[bool](), 0
    for line in text:
        first = {unit[0] for unit in obvious.units(line, chosen)}
        starts += [at in first and place == 0 for at, word in enumerate(line) for place in range(len(word))]
        inside += sum(len(line[at]) for unit in obvious.units(line, chosen) if len(unit) > 1 for at in unit)
    assert made.start.tolist() == starts
    assert made.collocations == len(chosen) > 5
    assert made.inside == pytest.approx(inside / len(starts), rel=1e-12)
    assert 0.3 < made.inside < 0.7


def test_nothing_crosses_a_line_and_ten_times_are_too_few() -> None:
    pair, other = [(1,), (2,)], [(3,), (4,)]
    alone: list[list[Word]] = [[(i,)] for i in range(5, 35)]
    assert units(*flat([pair] * 11 + [other] * 10 + alone), ALL)[1:] == (1, pytest.approx(22 / 72))
    assert units(*flat([line for _ in range(11) for line in ([(1,)], [(2,)])] + alone), ALL)[1:] == (0, 0.0)


def test_what_goes_together_no_more_than_by_chance_is_none() -> None:
    text: list[list[Word]] = [[(i,), (j,)] for i in range(4) for j in range(4)] * 12
    assert units(*flat(text), ALL)[1:] == (0, 0.0)
    assert units(*flat(text), ALL).start.all()


@pytest.mark.parametrize("words", [1, 2, 3, 4])
def test_a_short_text_has_no_collocations(words: int) -> None:
    made = units(np.arange(words), np.ones(words, np.bool_), np.arange(words) == 0, ALL)
    assert isinstance(made, Units)
    assert made.start.all()


@pytest.mark.parametrize("words", [2, 3, 5])
def test_overlapping_places_are_taken_from_the_left(words: int) -> None:
    draw = np.random.default_rng(words)
    for share in (0.1, 0.5, 0.9, 1.0):
        at = np.flatnonzero(draw.random(500) < share)
        end, expected = -1, list[bool]()
        for place in at.tolist():
            expected.append(place >= end)
            end = place + words if expected[-1] else end
        assert from_left(at, words).tolist() == expected


def test_a_long_run_of_one_word_is_quick() -> None:
    ids = np.ones(100_000, np.uint16)
    made = units(ids, np.ones(len(ids), np.bool_), np.arange(len(ids)) == 0, ALL)
    assert len(made.start) == len(ids)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("longest", [128, 6])
def test_relevance_is_that_of_a_loop(seed: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relevance, "LONGEST", longest)
    monkeypatch.setattr(relevance, "AT_ONCE", 7)
    text, eligible = drawn(seed, 150), ALL.copy()
    eligible[7] = False
    ids, _, line_start = flat(text)
    pieces = list[list[int]]()
    for line in ([token for word in line for token in word if token != 7] for line in text):
        pieces += [line[i : i + longest] for i in range(0, len(line), longest)]
    found = relevance.relevance(ids, line_start, eligible)
    due = obvious.relevance(pieces, SIZE)
    assert np.abs(found - due).max() < 1e-12
    assert found[7] == found[39] == 0.0
    assert len({*found.tolist()}) > 25


def test_relevance_needs_some_twenty_bytes_a_token() -> None:
    """For every corpus, whether a rule uses it or not."""
    draw, size = np.random.default_rng(0), 1_000_000
    ids, line_start = draw.integers(0, SIZE, size).astype(np.uint16), draw.random(size) < 1 / 12
    tracemalloc.start()
    relevance.relevance(ids, line_start, ALL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * size


def test_pairs_of_a_text_of_one_token_are_counted_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000,000 tokens, with sentences of 2,000, as of many more with the usual ones."""
    monkeypatch.setattr(relevance, "LONGEST", 2_000)
    ids = np.ones(2_000_000, np.uint16)
    found = relevance.relevance(ids, np.arange(len(ids)) == 0, ALL)
    assert not found.any(), "p(both) is p(one) p(other)"


@pytest.fixture(scope="module")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """A corpus where "new york city" is a collocation among words that follow by chance, by lines."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("phrases")
    words = [a + b + c for a in "bdfgkl" for b in "aeiou" for c in "mnprt"]
    documents = []
    for _ in range(60):
        lines = (" ".join([*draw.choice(words, 5), "new york city", *draw.choice(words, 3)]) for _ in range(4))
        documents.append("\n".join(lines))
    (folder / "text.txt").write_text("\n\n".join(documents), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(folder / "cache"))
        yield batches.prepare(DataConfig(corpus=f"files:{folder}/*.txt", tokenizer="train:300", block=16, held_out=0.1))


def test_a_corpus_is_prepared_with_its_units(phrases: Prepared) -> None:
    strings, facts = phrases.token_strings, phrases.facts["parts"]["train"]
    begins = np.flatnonzero(phrases.collocation_start)
    found = Counter(
        " ".join(strings[i] for i in phrases.tokens[a:b]) for a, b in itertools.pairwise([*begins, len(phrases.tokens)])
    )
    assert found["new york city"] == (phrases.tokens == strings.index("york")).sum() > 100
    assert not (phrases.collocation_start & ~phrases.word_start).any()
    assert facts["collocations"] >= 3  # both pairs, too
    assert 0.1 < facts["in_collocations"] < 0.6
    assert phrases.relevance.shape == (phrases.vocab_size,)
    assert (phrases.relevance >= -1e-12).all()
    assert not phrases.relevance[~phrases.eligible].any()


def test_batches_say_where_units_begin(phrases: Prepared) -> None:
    made, noise = Batches(phrases, 6, seed=2), StepNoise(2, 0, 3, (6, 16))
    for found, flat in (
        (made.collocation_start(noise, CPU), phrases.collocation_start),
        (made.word_start(noise, CPU), phrases.word_start),
    ):
        assert found.tolist() == flat.reshape(-1, 16)[made.block_ids(3)].tolist()


def test_a_text_without_collocations_masks_whole_words_and_says_so() -> None:
    given = override(["masking.preset=pmi", "masking.schedule=null"])
    facts: dict[str, Any] = {"vocabulary": 300, "word_scheme": "wordpiece", "parts": {"train": {"collocations": 0}}}
    (line,) = (line for line in mlm.check(given, facts) if "collocation" in line)
    assert line.startswith("masking.shares.pmi masks whole words alone: the train part has no collocation")
    facts["parts"]["train"]["collocations"] = 1
    assert not [line for line in mlm.check(given, facts) if "collocation" in line]
    facts["parts"]["train"]["collocations"] = 0
    assert not [line for line in mlm.check(override(["masking.preset=span"]), facts) if "collocation" in line]


def test_a_text_without_pairs_has_no_relevance() -> None:
    ids = np.arange(5)
    assert not relevance.relevance(ids, np.ones(5, np.bool_), ALL).any()
    assert not relevance.relevance(ids, np.ones(5, np.bool_), ~ALL).any()
