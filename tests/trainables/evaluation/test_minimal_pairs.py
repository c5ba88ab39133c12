"""Pairs are read as they are published, ties count as told, and intervals are those of the obvious bootstrap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.trainables.probes import write_blimp, write_rows, write_wug, write_zorro
from trainables.evaluation import minimal_pairs, wug
from trainables.evaluation.minimal_pairs import read_blimp, read_zorro
from trainables.evaluation.sentence_pairs import Pairs
from trainables.evaluation.wug import read_wug


def made(*groups: str) -> Pairs:
    return Pairs([("good", "bad")] * len(groups), [""] * len(groups), list(groups))


def test_blimp_is_grouped_by_paradigm_and_the_supplement_by_file(tmp_path: Path) -> None:
    pairs = read_blimp(write_blimp(tmp_path, pairs=2))
    assert pairs.group == ["order_across"] * 2 + ["order_between"] * 2 + ["supplement"] * 2
    assert pairs.where[3].endswith("between.jsonl:2")
    assert pairs.sentences()[:2] == list(pairs.options[0])
    good, bad = pairs.options[0]
    assert good.rstrip(".").lower().split() == bad.rstrip(".").split()[::-1]


def test_a_supplement_with_a_uid_but_no_field_goes_by_its_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "turn.jsonl", [{"sentence_good": "a", "sentence_bad": "b", "UID": "x"}])
    assert read_blimp(path).group == ["turn"]


def test_in_zorro_the_bad_sentence_comes_first_and_the_good_one_is_option_0(tmp_path: Path) -> None:
    (tmp_path / "case.txt").write_text("brought i the hill .\ni brought the hill .\n", "utf-8")
    assert read_zorro(tmp_path).options == [("i brought the hill .", "brought i the hill .")]
    assert read_zorro(write_zorro(tmp_path / "more", pairs=2)).group == ["case-subject"] * 2 + ["order-verb"] * 2


def test_wug_has_two_sentences_and_a_ratio(tmp_path: Path) -> None:
    pairs = read_wug(write_wug(tmp_path / "wug.jsonl", items=4))
    assert pairs.ratios == [0, 0.25, 0.5, 0.75]
    assert all(first.endswith("ba.") and second.endswith("ne.") for first, second in pairs.options)


def test_a_byte_order_mark_is_no_part_of_the_first_sentence(tmp_path: Path) -> None:
    written = [(read_zorro, write_zorro(tmp_path / "zorro")), (read_blimp, write_blimp(tmp_path / "blimp"))]
    written.append((read_wug, write_wug(tmp_path / "wug" / "wug.jsonl").parent))
    for read, folder in written:
        plain = read(folder)
        for path in folder.iterdir():
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read(folder) == plain


def test_ties_count_half_and_for_option_0_whole_and_phenomena_weigh_the_same() -> None:
    preference = np.array([2.0, -1.0, 0.0, 0.0, 5.0])
    result = minimal_pairs.score(made("a", "a", "a", "a", "b"), preference)
    assert result.by["a"] == {"score": 0.5, "score_first": 0.75, "ties": 2, "pairs": 4}
    assert result.by["b"] == {"score": 1.0, "score_first": 1.0, "ties": 0, "pairs": 1}
    assert (result.score, result.first, result.ties) == (0.75, 0.875, 2)


def test_the_interval_is_that_of_resampling_pairs_within_phenomena() -> None:
    draw = np.random.Generator(np.random.Philox(2))
    values = [draw.choice([0, 0.5, 1], 40, p=p) for p in ([0.2, 0.1, 0.7], [0.6, 0, 0.4])]
    counts = np.array([[(value == kind).sum() for kind in (0, 0.5, 1)] for value in values])
    means = [np.mean([draw.choice(value, len(value)).mean() for value in values]) for _ in range(2000)]
    assert minimal_pairs.bootstrap(counts) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.015)
    assert minimal_pairs.bootstrap(counts) == minimal_pairs.bootstrap(counts) != minimal_pairs.bootstrap(counts, 1)


def test_an_interval_of_what_is_always_right_is_a_point() -> None:
    assert minimal_pairs.bootstrap(np.array([[0, 0, 5], [0, 0, 3]])) == (1, 1)


def test_spearman_is_scipys_with_ties_and_0_of_a_constant() -> None:
    draw = np.random.Generator(np.random.Philox(3))
    one, other = draw.integers(0, 6, (2, 30)).astype(float)
    rows = np.stack([one, other, one]), np.stack([other, other, np.ones(30)])
    expected = [stats.spearmanr(one, other)[0], 1, 0]
    assert wug.spearman(*rows) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_a_correlation_is_scipys() -> None:
    draw = np.random.Generator(np.random.Philox(4))
    ratios = np.round(draw.random(80), 1)
    preference = ratios + draw.normal(0, 0.4, 80)
    preference[:3] = 0
    result = wug.score(replace(made(*["a"] * 80), ratios=ratios.tolist()), preference)
    theirs = stats.bootstrap(
        (ratios, preference), lambda a, b, axis: wug.spearman(a, b), paired=True, vectorized=True,
        n_resamples=3000, method="percentile", rng=draw,
    ).confidence_interval  # fmt: skip
    assert result.interval == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert result.ties == 3
    assert result.interval[0] < result.score == pytest.approx(stats.spearmanr(ratios, preference)[0])


def test_a_preference_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="it has diverged"):
        made("a").preference(lambda *_: np.array([1.0, np.nan]))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("reader", "name", "content", "message"),
    [
        (
            read_blimp,
            "a.jsonl",
            '{"sentence_good": "x"}',
            "a.jsonl:1 has no column 'sentence_bad': it has sentence_good",
        ),
        (read_blimp, "a.jsonl", '\n{"sentence_good": 1, "sentence_bad": "x"}', "a.jsonl:2: a sentence is missing"),
        (read_blimp, "a.jsonl", "{", "a.jsonl:1 is not JSON"),
        (read_blimp, "a.jsonl", "[]", "a.jsonl:1 is not a JSON object"),
        (read_blimp, "a.jsonl", " \n", "a.jsonl is empty"),
        (read_blimp, "a.jsonl", b"\xff\xfe", "a.jsonl is not UTF-8"),
        (read_blimp, "a.txt", "x", "has no .jsonl files"),
        (read_zorro, "a.txt", "x\ny\nz", "a.txt has 3 lines"),
        (read_zorro, "a.txt", "x\n\ny\nz", "a.txt:2: a sentence is missing"),
        (read_wug, "a.jsonl", '{"sentences": "a\\tb"}', "a.jsonl:1 has no column 'ratio'"),
        (read_wug, "a.jsonl", '{"sentences": "a b", "ratio": 0.5}', "must be two, separated by a tab, not 1"),
        (read_wug, "a.jsonl", '{"sentences": "a\\tb", "ratio": "x"}', "ratio 'x' must be a number from 0 to 1"),
        (read_wug, "a.jsonl", '{"sentences": "a\\tb", "ratio": 1}', "every ratio is the same"),
    ],
)
def test_bad_files_are_refused_in_a_line(
    tmp_path: Path, reader: object, name: str, content: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        reader(tmp_path)  # pyright: ignore[reportCallIssue]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
