"""Ages of acquisition are those of sigmoids fitted another way, and the score is the pipeline's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.trainables import challenge, challenge_slowly
from trainables.evaluation import acquisition, rules

TOKENIZER: Any = lambda text, **_: {"input_ids": text.split()}  # noqa: E731


def curves(words: int, noise: float, seed: int = 0) -> dict[str, list[float]]:
    """Surprisals that fall along sigmoids, the later the word the later."""
    draw, logs = np.random.Generator(np.random.Philox(seed)), np.log10(np.array(rules.WORDS))
    return {
        f"word{number}": (9 - 5 / (1 + np.exp(-5 * (logs - 6.5 - 0.12 * number))) + draw.normal(0, noise, 19)).tolist()
        for number in range(words)
    }


def files(folder: Path, ages: dict[str, float], words: int = 9) -> acquisition.Lexicon:
    challenge.write_ages(folder, {f"word{number}": [{"context": "a b "}] for number in range(words)}, ages)
    return acquisition.read(folder / rules.CONTEXTS, folder / rules.CHILDREN)


def tokenizer() -> Any:
    found = SimpleNamespace(vocab_size=8103)
    return type("Words", (), {"vocab_size": found.vocab_size, "__call__": lambda self, text, **_: TOKENIZER(text)})()


@pytest.mark.parametrize("order", [1, -1])
def test_the_correlation_is_that_of_the_rules(tmp_path: Path, order: int) -> None:
    lexicon = files(tmp_path, {f"word{number}": 23 + order * (0.7 * number - 3) + number % 3 for number in range(1, 9)})
    given = curves(9, 0.05)
    found = acquisition.score(lexicon, np.array(list(given.values())).T, tokenizer())
    score, correlation, words = challenge_slowly.acquisition(given, tokenizer(), tmp_path / rules.CHILDREN)
    assert (found.official, found.correlation) == pytest.approx((score, correlation), abs=1e-6)
    stopped = challenge_slowly.acquisition(
        given, tokenizer(), tmp_path / rules.CHILDREN, challenge_slowly.stopped_sigmoid
    )
    assert (found.official, found.correlation) == pytest.approx(stopped[:2], abs=1e-9)  # the pipeline's own solver
    ours = acquisition.score(lexicon, np.array(list(given.values())).T, tokenizer(), rule="ours")
    assert ours.correlation == pytest.approx(correlation, abs=1e-8)
    assert abs(found.correlation - correlation) > 5 * abs(ours.correlation - correlation)
    assert found.words == words == 8  # the first has no children
    assert order * found.official > 0.5
    assert found.interval is not None
    assert found.interval[0] < found.correlation < found.interval[1]


def test_a_large_p_counts_as_no_correlation(tmp_path: Path) -> None:
    lexicon = files(tmp_path, {f"word{number}": 20 + 5 * (number % 2) + number % 3 for number in range(9)})
    found = acquisition.score(lexicon, np.array(list(curves(9, 0.05).values())).T, tokenizer())
    assert found.p > 0.1
    assert found.official == 0 != found.correlation


def test_a_model_that_learns_nothing_has_no_ages(tmp_path: Path) -> None:
    lexicon = files(tmp_path, {f"word{number}": 20 + number for number in range(9)})
    flat = np.tile(np.linspace(8, 9, 9), (19, 1))
    assert acquisition.score(lexicon, flat, tokenizer()) == acquisition.Order(0, 0, 1, 0, None)


def test_pieces_are_counted_after_another_word() -> None:
    assert acquisition.pieces(lambda text, **_: {"input_ids": list(text)}, "word") == 5  # with its space
    assert acquisition.pieces(lambda *_, **__: {"input_ids": []}, "word") == 1


def test_letters_are_left_out_and_surprisals_told_as_the_pipeline_does(tmp_path: Path) -> None:
    challenge.write_ages(tmp_path, {"a": [{"context": "x"}], "ba": [{"context": "x"}, {"context": "y"}]}, {"ba": 20})
    lexicon = acquisition.read(tmp_path / rules.CONTEXTS, tmp_path / rules.CHILDREN)
    assert (lexicon.words, lexicon.contexts, lexicon.ids) == (["ba", "ba"], ["x", "y"], [0, 1])
    told = lexicon.told(np.arange(38.0).reshape(19, 2))["results"]
    assert len(told) == 38
    assert told[3] == {
        "step": "chck_2M", "word_count": 2_000_000, "target_word": "ba", "context_id": 1, "context": "y",
        "surprisal": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("contexts", "children", "message"),
    [
        ([1], "", "is not a JSON object"),
        ({"ba": 1}, "", "'ba' must have a list of contexts"),
        ({"ba": [{"text": "x"}]}, "", "context 0 of 'ba' has no text 'context'"),
        ({"a": []}, "", "has no contexts"),
        ({"ba": [{"context": "x"}]}, "word,16\nba,1\n", "has no column '17'"),
        ({"ba": [{"context": "x"}]}, "word," + ",".join(map(str, range(16, 31))) + "\nba" + ",x" * 15, "no number"),
    ],
)
def test_bad_files_are_refused_in_a_line(tmp_path: Path, contexts: Any, children: str, message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(contexts), "utf-8")
    (tmp_path / "h.csv").write_text(children or "word\n", "utf-8")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        acquisition.read(tmp_path / "c.json", tmp_path / "h.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
