"""Words seen, marks, the checkpoints of a series, and a length in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sweeper.trainable import TrainContext
from tests.trainables.tiny import Recorder, Stopped, config, run
from trainables import mlm
from trainables.data import batches as batches_module
from trainables.data import words_seen
from trainables.data.preparation import begins_word
from trainables.settings import word_amounts
from trainables.settings.config import Config

pytestmark = pytest.mark.usefixtures("own_cache")
SMALL = {"hidden": 16, "layers": 1, "intermediate": 16}


@pytest.mark.parametrize(
    ("given", "count", "name"),
    [
        (100_000_000, 100_000_000, "chck_100M"),
        ("100M", 100_000_000, "chck_100M"),
        ("100K", 100_000, "chck_100K"),
        ("1B", 10**9, "chck_1000M"),
        (1_500_000, 1_500_000, "chck_1500K"),
        ("1234", 1234, "chck_1234"),
    ],
)
def test_word_counts_and_their_names(given: Any, count: int, name: str) -> None:
    assert word_amounts.words(given) == count
    assert word_amounts.folder_name(count) == name
    assert word_amounts.words(word_amounts.text(count)) == count


@pytest.mark.parametrize("given", ["1.5M", "many", "", "-1M", 0, -5, 1.5, True, None])
def test_what_is_no_number_of_words_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="write 100000000, 100M or 500K"):
        word_amounts.words(given)


def test_a_series_is_published_or_a_list() -> None:
    published = Config(series="published").series  # pyright: ignore[reportArgumentType]
    assert [word_amounts.folder_name(mark) for mark in published or ()] == [
        *(f"chck_{i}M" for i in range(1, 11)),
        *(f"chck_{i}0M" for i in range(2, 11)),
    ]
    listed = Config.model_validate_json('{"series": ["2M", 100000, "100K"]}', strict=True)
    assert listed.series == (100_000, 2_000_000)
    assert Config.model_validate(listed.model_dump(mode="json")) == listed
    for bad in ("all", [], True, ["1.5M"]):
        with pytest.raises(ValidationError, match=r"write published or a list|write 100000000"):
            Config.model_validate({"series": bad})


def test_settings_without_them_are_dumped_as_before() -> None:
    """Hashes of what has been run go by the dump."""
    tree = Config().model_dump(mode="json")
    assert "steps" in tree
    assert not {"series", "length"} & set(tree)
    assert "series" in Config(series=(5,)).model_dump()


LINES = [
    "Ba lo  mi.",
    "",
    "  one\u00a0two\u3000three, four-five ",
    "\u4e2d\u6587 caf\u00e9 \U0001f600x",
    "\u200b a \x00 b",
    "...",
]


def test_words_begin_where_white_space_ends() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    entries = ["[UNK]", *"abcdefghijklmnopqrstuvwxyz.,-", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    tool = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    tool.normalizer = normalizers.BertNormalizer(lowercase=True)
    tool.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encodings = tool.encode_batch(LINES, add_special_tokens=False)
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    ends = np.array([end for encoding in encodings for _, end in encoding.offsets])
    found, expected = begins_word(LINES, ends, lengths), []
    for line, encoding in zip(LINES, encodings, strict=True):
        last = None
        for begin, _ in encoding.offsets:
            word = next(i for i, match in enumerate(re.finditer(r"\S+", line)) if match.start() <= begin < match.end())
            expected.append(word != last)
            last = word
    assert found.tolist() == expected
    with_tokens = sum(len(line.split()) for line in LINES) - 2  # a zero-width space and a NUL leave nothing
    assert found.sum() == with_tokens
    assert not any(chr(point).isspace() for point in range(0x3001, 0x110000))


def test_the_words_of_a_corpus_are_counted_once_each(corpus: Path) -> None:
    prepared = batches_module.prepare(config(corpus).data)
    facts = prepared.facts["parts"]["train"]
    assert len(prepared.words) == len(prepared.tokens) // prepared.block
    assert facts["words"] - prepared.block < prepared.words.sum() <= facts["words"], "all but the last part of a block"
    assert prepared.words.sum() == prepared.word_start.sum(), "this text has no punctuation"


def corpus_of(words: list[int], block: int = 4) -> Any:
    """Blocks with so many words, the second of them not usable."""
    rows = np.delete(np.arange(len(words), dtype=np.int32), 1)
    tokens = np.zeros(len(words) * block, np.uint16)
    starts = np.ones(len(tokens), np.bool_)
    arrays = {"words": np.array(words, np.int32), "rows": rows, "tokens": tokens, "block": block}
    return SimpleNamespace(**arrays, word_start=starts, collocation_start=starts)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_marks_are_reached_where_a_walk_through_the_steps_reaches_them(batch_size: int) -> None:
    prepared = corpus_of(np.random.default_rng(3).integers(0, 5, 12).tolist())
    batches = batches_module.Batches(prepared, batch_size, 5)
    total, walked, wanted = 0, {}, [1, 2, 9, 20, 21, 22, 60, 100, 10**30]
    for step in range(1, 41):
        total += int(prepared.words[batches.block_ids(step - 1)].sum())
        assert words_seen.seen(prepared, batches, step) == total
        walked |= {mark: (step, total) for mark in wanted if total >= mark and mark not in walked}
    found = words_seen.reached(prepared, batches, wanted, 40)
    assert {each.target: (each.step, each.words) for each in found} == walked
    assert len(words_seen.reached(prepared, batches, wanted, 1)) < len(wanted)


def test_a_length_has_its_words_in_every_order_and_hardly_more() -> None:
    prepared = corpus_of(np.random.default_rng(4).integers(60, 110, 2001).tolist())
    epoch = int(prepared.words[prepared.rows].sum())
    for words in (1, epoch // 3, epoch, epoch + 1, 4 * epoch, 5 * epoch + epoch // 2):
        rows = words_seen.rows_for(prepared, words)
        least = min(words_seen.seen(prepared, batches_module.Batches(prepared, 1, seed), rows) for seed in range(20))
        assert words <= least <= words + 0.01 * epoch
        assert rows == words // epoch * 2000 or words % epoch
    with pytest.raises(ValueError, match="no word begins in a usable block"):
        words_seen.rows_for(corpus_of([0] * 9), 5)


def test_a_length_in_words_becomes_steps(corpus: Path) -> None:
    tree = config(corpus, model=SMALL).model_dump(mode="json", exclude={"steps"})
    prepared = batches_module.prepare(config(corpus).data)
    epoch = int(prepared.words[prepared.rows].sum())
    settings = mlm.Config.model_validate({**tree, "length": {"words": 3 * epoch}})
    assert settings.steps == -(-3 * len(prepared.rows) // 8)
    dumped = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert dumped["steps"] == settings.steps, "which people are shown"
    again = Config.model_validate_json(json.dumps(dumped), strict=True)
    assert again.model_dump() == settings.model_dump(), "what is resolved needs no corpus"
    assert again.steps == settings.steps
    assert Config.model_validate({**dumped, "batch_size": 4}).steps == -(-3 * len(prepared.rows) // 4)
    with pytest.raises(ValidationError, match="both steps and length are set"):
        mlm.Config.model_validate({**dumped, "steps": settings.steps + 1})
    assert mlm.Config.model_validate({**dumped, "steps": None}) == settings
    unresolved = {**tree, "steps": None, "length": {"words": 3 * epoch}}
    assert mlm.Config.model_validate(unresolved) == settings
    assert mlm.Config.model_validate({**dumped, "steps": 99, "length": None}).steps == 99
    longer = mlm.Config.model_validate({**dumped, "length": {**dumped["length"], "words": 6 * epoch}})
    assert longer.length
    assert longer.length.rows == 6 * len(prepared.rows), "other words are counted anew"
    wider = mlm.Config.model_validate({**dumped, "data": {**dumped["data"], "block": 8}})
    assert wider.length
    assert (wider.length.rows or 0) > 3 * len(prepared.rows), "and so is another corpus"
    text = mlm.Config.model_validate({**tree, "length": {"words": "2K"}})
    assert text.length
    assert text.length.words == 2000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": {"words": "5K"}, "steps": 10}, "both steps and length are set: keep one"),
        ({"length": {"words": "five"}}, "write 100000000, 100M or 500K"),
        ({"length": {"word": 5}}, "length.word"),
        ({"length": 5}, "length"),
        ({"length": {"words": 5}, "batch_size": 0}, "batch_size"),
        ({"length": {"words": 5}, "data": {"corpus": "files:/nowhere/*.txt"}}, "/nowhere"),
    ],
)
def test_a_bad_length_is_refused(corpus: Path, change: dict[str, Any], message: str) -> None:
    tree = config(corpus).model_dump(mode="json", exclude={"steps"})
    with pytest.raises(ValidationError, match=message):
        mlm.Config.model_validate({**tree, **change})


def test_a_length_that_nobody_counted_is_refused() -> None:
    with pytest.raises(ValidationError, match="length has no rows"):
        Config.model_validate({"length": {"words": 5}})


def test_a_series_adds_its_weights_to_the_estimate_of_the_disk() -> None:
    plain = Config()
    all_marks = Config(series=word_amounts.PUBLISHED)
    assert all_marks.checkpoint_bytes == plain.checkpoint_bytes // 3 * (3 + 17)  # 82 M tokens at most
    assert all_marks.memory_bytes == plain.memory_bytes


def files(folder: Path) -> dict[str, bytes]:
    """All but the metadata, which say which code wrote them."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name != "metadata.json"}


def test_a_resumed_run_has_the_whole_series_bitwise_and_each_loads(corpus: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    wanted = [100, 350, 360, 1300, 10**6]
    settings = config(corpus, steps=12, report_every=4, model=SMALL, masking={"update_every": 1}, series=wanted)
    whole = run(settings, tmp_path / "whole")
    plain, first, second = Recorder(tmp_path / "plain", 8), Recorder(tmp_path / "cut", 8), Recorder(tmp_path / "cut")
    for recorder, marked in ((plain, None), (first, settings.series)):
        with pytest.raises(Stopped):
            mlm.train(settings.model_copy(update={"series": marked}), TrainContext(recorder))
    assert plain.rows == first.rows == whole.rows[:2]
    before = {path.name for path in (first.checkpoint / "series").iterdir()}
    mlm.train(settings, TrainContext(second, restore_from=first.checkpoint))
    folder = whole.checkpoint / "bundle" / "series"
    assert files(second.checkpoint / "bundle" / "series") == files(folder)
    assert second.weights() == whole.weights()

    prepared = batches_module.prepare(settings.data)
    batches = batches_module.Batches(prepared, settings.batch_size, 0)
    found = words_seen.reached(prepared, batches, wanted, 12)
    assert {path.name for path in folder.iterdir()} == {each.name for each in found} > before > set()
    assert mlm.prepare(settings)["series"] == [each.name for each in found]
    for each in found:
        told = json.loads((folder / each.name / "metadata.json").read_text("utf-8"))
        seen = sum(int(prepared.words[batches.block_ids(step)].sum()) for step in range(each.step))
        assert (told["step"], told["words"], told["mark"]) == (each.step, seen, each.target)
        loaded = AutoModelForMaskedLM.from_pretrained(folder / each.name, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder / each.name, local_files_only=True)
        assert loaded.config.vocab_size == len(tokenizer) == prepared.vocab_size
    weights = [(folder / each.name / "model.safetensors").read_bytes() for each in found]
    steps = [each.step for each in found]
    assert len(set(weights)) == len(set(steps)), "one for each step, the weights as they were then"
    metadata = json.loads((whole.checkpoint / "bundle" / "metadata.json").read_text("utf-8"))
    assert metadata["words"] == words_seen.seen(prepared, batches, 12)


def test_alone_the_series_lies_beside_the_checkpoint(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [f"data.corpus=files:{corpus}", "data.tokenizer=train:300", "data.block=16", "data.held_out=0.1"]
    sets += ["length.words=700", "batch_size=4", "model.hidden=16", "model.layers=1", "model.intermediate=16"]
    sets += ["series=[200, 700]", "model.heads=2"]
    arguments = [part for setting in sets for part in ("--set", setting)]
    assert mlm.main([*arguments, "--threads", "1", "--output", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out" / "series").iterdir()} == {"chck_200", "chck_700"}
    assert not (tmp_path / "out" / "checkpoint" / "bundle" / "series").exists()
    assert "series: chck_200, chck_700" in capsys.readouterr().err
    assert mlm.main(["--set", "series=[1.5M]", "--output", str(tmp_path / "bad")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "bad").exists()
