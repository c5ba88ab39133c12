"""Slices of the validation loss: which prediction lies where, the word forms, and what a run leaves of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainables.texts import sentences
from tests.trainables.tiny import config, run
from trainables.data import batches, loss_slices
from trainables.model import bert
from trainables.settings import slice_names
from trainables.training.validation import Validation

pytestmark = pytest.mark.usefixtures("own_cache")
SMALL = {"hidden": 16, "layers": 1, "intermediate": 16}


def test_a_prediction_lies_in_a_band_a_kind_and_a_novelty() -> None:
    counts = np.array([0, 1, 9, 10, 99, 100, 999, 1000, 10**6])
    initial, seen = counts <= 50, counts != 9
    found = loss_slices.members(counts, initial, seen)
    bands = [slice_names.NAMES[i] for i in found[:, :5].argmax(1)]
    one, two, three = ["freq_1_9"] * 2, ["freq_10_99"] * 2, ["freq_100_999"] * 2
    assert bands == ["freq_0", *one, *two, *three, "freq_1000_up", "freq_1000_up"]
    assert (found[:, :5].sum(1) == 1).all()
    assert slice_names.NAMES[5:] == ("word_initial", "continuation", "seen_form", "unseen_form")
    assert (found[:, 5:] == np.stack([initial, ~initial, seen, ~seen], 1)).all()


def test_counts_come_back_from_probabilities() -> None:
    ids = np.random.default_rng(0).zipf(1.3, 100_000) % 500
    counts = np.bincount(ids, minlength=600)
    unigram = (counts + 1) / (counts.sum() + 600)
    assert (loss_slices.counts_of(unigram, len(ids)) == counts).all()


def words(ids: np.ndarray, word_start: np.ndarray) -> list[tuple[int, ...]]:
    """The word that each token belongs to."""
    edges = [i for i in range(len(ids)) if i == 0 or word_start[i]]
    found = [tuple(ids[i:j].tolist()) for i, j in zip(edges, [*edges[1:], len(ids)], strict=True)]
    return [word for word in found for _ in word]


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_seen_forms_are_those_of_a_set_of_words(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of several pieces, the same pieces in another order, cut words at the front, and repeated pieces."""
    monkeypatch.setattr(loss_slices, "_CHUNK", chunk)
    draw = np.random.default_rng(1)
    (ids, start), (others, begins) = (
        (draw.integers(0, 6, n).astype(np.uint16), draw.random(n) < 0.4) for n in (400, 300)
    )
    begins[0] = False
    known = loss_slices.known_forms(ids, start)
    there = set(words(ids, start))
    assert len(known) == len(there)
    expected = [word in there for word in words(others, begins)]
    assert loss_slices.seen_forms(known, others, begins).tolist() == expected
    assert 0.1 < np.mean(expected) < 0.9


def test_a_long_stretch_without_a_word_start_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_slices, "_CHUNK", 4)
    start = np.array([True] + [False] * 20 + [True, False])
    assert len(loss_slices.known_forms(np.arange(23), start)) == 2


def test_slices_are_what_a_loop_over_the_predictions_finds(corpus: Path) -> None:
    settings = config(corpus, model={"dropout": 0.0, **SMALL}, data={"tokenizer": "train:110"})
    prepared = batches.prepare(settings.data)
    net = bert.for_vocabulary(settings.model, prepared).initialise(0).eval()
    validation = Validation(prepared, "cpu")
    row = validation(net, lambda _: None)
    chosen = prepared.evaluation("val")
    with torch.no_grad():
        logits = net.logits(torch.from_numpy(np.array(chosen.inputs)), torch.from_numpy(np.array(chosen.positions)))
    losses = F.cross_entropy(logits, torch.from_numpy(np.array(chosen.labels)), reduction="none").double()
    counts, sums, predictions = Counter(prepared.tokens.tolist()), Counter[str](), Counter[str]()
    for label, seen, loss in zip(chosen.labels.tolist(), chosen.seen.tolist(), losses.tolist(), strict=True):
        band = [name for name, least in slice_names.BANDS.items() if counts[label] >= least][-1]
        piece = "continuation" if prepared.token_strings[label].startswith("##") else "word_initial"
        for name in (band, piece, "seen_form" if seen else "unseen_form"):
            sums[name] += loss
            predictions[name] += 1
    expected = {f"val/loss_{name}": sums[name] / predictions[name] for name in sums}
    assert validation.sliced() == pytest.approx(expected, rel=1e-6)
    assert {"val/loss_word_initial", "val/loss_continuation", "val/loss_seen_form"} < set(expected)
    assert len(expected) < len(slice_names.NAMES), "some slice is empty, and said nothing of"
    assert sum(predictions.values()) == 3 * len(losses)
    assert sum(sums.values()) / 3 / len(losses) == pytest.approx(row["val/loss"], rel=1e-6)


def test_a_part_without_a_mask_has_a_loss_and_none_at_masks(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(corpus, model=SMALL)
    prepared = batches.prepare(settings.data)
    net = bert.for_vocabulary(settings.model, prepared).initialise(0)
    whole = Validation(prepared, "cpu", part="test")(net, lambda _: None)
    chosen = prepared.evaluation("test")
    unmasked = replace(chosen, masked=np.zeros_like(chosen.masked))
    monkeypatch.setattr(batches.Prepared, "evaluation", lambda *_: unmasked)
    row = Validation(prepared, "cpu", part="test")(net, lambda _: None)
    assert row == {"test/loss": whole["test/loss"]}
    assert len(whole) == 5


def test_seen_says_whether_the_word_stands_in_the_train_part(tmp_path: Path) -> None:
    """Validation: further sentences of the same words. Test: words of another lexicon, some of which are the same."""
    own, other = sentences(1600, seed=1), sentences(300, seed=2)
    for name, lines in (("train", own[:1200]), ("val", own[1200:]), ("test", other)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(lines), "utf-8")
    tree = {f"{part}": f"files:{tmp_path}/{name}.txt" for part, name in (("validation", "val"), ("test", "test"))}
    prepared = batches.prepare(config(tmp_path / "train.txt", data=tree).data)
    val, test = (prepared.evaluation(part).seen.mean() for part in ("val", "test"))
    assert 0.95 < val <= 1
    assert 0.1 < test < 0.7


def test_the_last_row_has_slices_and_the_bundle_their_counts(corpus: Path, tmp_path: Path) -> None:
    recorder = run(config(corpus, steps=12, report_every=6, model=SMALL, masking={"update_every": 1}), tmp_path)
    sliced = [{key for key in row if key.startswith("val/loss_") and key != "val/loss_mask"} for row in recorder.rows]
    assert not sliced[0]
    told = json.loads((recorder.checkpoint / "bundle" / "analysis" / "slices.json").read_text("utf-8"))
    assert told["part"] == "val"
    assert list(told["slices"]) == list(slice_names.NAMES)
    last = recorder.rows[-1]
    for name, each in told["slices"].items():
        key = f"val/loss_{name}"
        assert (key in last) == (each["predictions"] > 0)
        assert last.get(key, 0) * each["predictions"] == pytest.approx(each["loss"])
    assert {f"val/loss_{name}" for name, each in told["slices"].items() if each["predictions"]} == sliced[-1]
    kinds = (told["slices"][name]["loss"] for name in ("word_initial", "continuation"))
    total = sum(told["slices"][name]["predictions"] for name in ("seen_form", "unseen_form"))
    assert sum(kinds) / total == pytest.approx(last["val/loss"])
