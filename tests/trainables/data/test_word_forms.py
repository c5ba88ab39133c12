"""Entries as text, under every scheme: what the rules of words and characters make of one text cut in four ways."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.trainables.tiny import config, run
from trainables import mlm
from trainables.data import batches
from trainables.data.word_forms import UNKNOWN, WORDPIECE, Scheme, WordForms, scheme_of
from trainables.masking.difficulty import token_keys, trigram_keys
from trainables.masking.policy import Vocabulary
from trainables.masking.statistics import KINDS, MaskStatistics
from trainables.model import nhot
from trainables.settings.config import Config, DataConfig

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BEGINS = {"wordpiece": "{}", "byte-bpe": "Ġ{}", "unigram": "▁{}", "bpe": "▁{}"}
CONTINUES = {"wordpiece": "##{}", "byte-bpe": "{}", "unigram": "{}", "bpe": "{}"}


def text() -> Iterator[str]:
    """Sentences of made-up words of two to five syllables, some with umlauts, at frequencies by rank."""
    source = random.Random(3)
    syllables = [a + b for a in "bdgklmnprst" for b in ("a", "e", "i", "o", "u", "ü", "ö")]
    words = ["".join(source.choices(syllables, k=source.randint(2, 5))) for _ in range(700)]
    weights = [1 / (rank + 5) for rank in range(len(words))]
    for _ in range(3000):
        yield " ".join(source.choices(words, weights, k=source.randint(4, 12))) + source.choice([".", " !", " 1990"])


def wordpiece(size: int) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False)


def byte_bpe(size: int) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )


def bare(size: int) -> tuple[Tokenizer, trainers.Trainer]:
    """As GPT-2's: the first word of a line has no space before it, and its entries do not tell that it begins one."""
    tokenizer, trainer = byte_bpe(size)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer, trainer


def metaspace(model: models.Model, trainer: trainers.Trainer) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer, trainer


def unigram(size: int) -> tuple[Tokenizer, trainers.Trainer]:
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False)
    return metaspace(models.Unigram(), trainer)


def bpe(size: int) -> tuple[Tokenizer, trainers.Trainer]:
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False)
    return metaspace(models.BPE(unk_token="[UNK]"), trainer)


SCHEMES: dict[str, Callable[[int], tuple[Tokenizer, trainers.Trainer]]] = {
    "wordpiece": wordpiece,
    "byte-bpe": byte_bpe,
    "unigram": unigram,
    "bpe": bpe,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer folder of 800 entries a scheme, all trained on the one text, and the text: `corpus`."""
    folder = tmp_path_factory.mktemp("schemes")
    lines = list(text())
    (folder / "corpus.txt").write_text("\n\n".join("\n".join(lines[i : i + 10]) for i in range(0, 3000, 10)), "utf-8")
    for name, make in {**SCHEMES, "bare": bare}.items():
        tokenizer, trainer = make(800)
        tokenizer.train_from_iterator(lines, trainer)
        save(tokenizer, folder / name)
    return {name: folder / name for name in (*SCHEMES, "bare")} | {"corpus": folder / "corpus.txt"}


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def prepared(trained: dict[str, Path], name: str) -> batches.Prepared:
    return batches.prepare(settings(trained, name).data)


def settings(trained: dict[str, Path], name: str, **changes: object) -> Config:
    found = {"tokenizer": str(trained[name]), "block": 64, "held_out": 0.05}
    model = {"hidden": 16, "layers": 1, "intermediate": 16, "max_positions": 64}
    return config(trained["corpus"], data=found, model=model, batch_size=16, **changes)


def forms(*names: str, scheme: Scheme) -> WordForms:
    return scheme.forms(list(names))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", [*SCHEMES, "bare"])
def test_whole_words_are_masked_whole_under_every_scheme(trained: dict[str, Path], name: str, tmp_path: Path) -> None:
    """By where words of the text begin, and far more often than random masking happens to."""
    whole, chance = (
        run(settings(trained, name, masking=masking), tmp_path / folder).rows[-1]
        for folder, masking in (
            ("whole", {"shares": {"random": 0, "whole_word": 1}, "mask_warmup": 0}),
            ("random", {"shares": {"random": 1}, "mask_warmup": 0}),
        )
    )
    assert whole["audit/whole_words"] >= 0.6
    assert chance["audit/whole_words"] < 0.1
    found = prepared(trained, name)
    words = found.word_start & np.array([form.isalpha() or not form for form in found.forms.texts])[found.tokens]
    assert chance["audit/kind/word"] == pytest.approx(words.mean(), abs=0.04), "a line's first word is one, too"


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", SCHEMES)
def test_whole_words_are_what_a_loop_over_the_words_counts(trained: dict[str, Path], name: str) -> None:
    found = prepared(trained, name)
    tokenizer = Tokenizer.from_file(str(found.tokenizer_files() / "tokenizer.json"))
    assert found.scheme == scheme_of(tokenizer)
    words = tokenizer.decode(found.tokens[:2000].tolist()).split()
    starts = found.word_start[:2000]
    spaced = [i for i in np.flatnonzero(starts) if found.forms.begins[found.tokens[i]]]
    # The first of a line has no space before it, and what the cut left of the first word begins nowhere.
    assert len(spaced) == pytest.approx(len(words), rel=0.12)
    assert (starts | ~found.forms.begins[found.tokens[:2000]]).all(), "what begins a word by itself begins one there"


@pytest.mark.usefixtures("own_cache")
def test_the_schemes_agree_where_their_pieces_agree(trained: dict[str, Path]) -> None:
    """One table over four tokenizers: keys, trigrams, kinds and n-hot members of entries that all of them have."""
    by_scheme = {name: prepared(trained, name) for name in SCHEMES}
    index = {name: {token: i for i, token in enumerate(each.token_strings)} for name, each in by_scheme.items()}
    texts = {name: each.forms.texts for name, each in by_scheme.items()}
    words = {text for text in texts["wordpiece"] if text.isalpha() and len(text) > 1}
    for pattern in (BEGINS, CONTINUES):
        common = [
            text for text in sorted(words) if all(written(name, pattern, text) in index[name] for name in SCHEMES)
        ]
        assert len(common) >= 10, "too few pieces in common for a table"
        assert any("ü" in text or "ö" in text for text in common)
        tables = [
            table(each, [index[name][written(name, pattern, text)] for text in common])
            for name, each in by_scheme.items()
        ]
        assert tables[0] == tables[1] == tables[2] == tables[3]
        assert [row[0] for row in tables[0]] == common
        assert all(row[1] for row in tables[0])
        assert {row[2] for row in tables[0]} == {"word" if pattern is BEGINS else "continuation"}


def written(name: str, pattern: dict[str, str], text: str) -> str:
    """An entry as its tokenizer writes it."""
    spelled = text
    if name == "byte-bpe":
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)[0][0]
    return pattern[name].format(spelled)


def table(found: batches.Prepared, ids: list[int]) -> list[tuple[str, list[str], str]]:
    """(key, trigrams, kind) of some entries."""
    keys, by_trigram = token_keys(found.forms), trigram_keys(found.forms)
    names, forms = np.array(keys.names), found.forms
    return [
        (
            str(names[keys.key[keys.token == i]][0]),
            [by_trigram.names[key] for key in by_trigram.key[by_trigram.token == i]],
            kind(forms, i),
        )
        for i in ids
    ]


def kind(forms: WordForms, entry: int) -> str:
    """Of one prediction of an entry, by what its form tells."""
    size = len(forms.texts)
    masked = MaskStatistics(Vocabulary(forms, np.ones(size, bool), np.full(size, 1 / size)))
    by_id = np.eye(size, dtype=np.int64)[entry]
    return KINDS[masked.kinds(by_id, by_id * forms.begins).argmax()]


@pytest.mark.parametrize(
    ("scheme", "pattern"),
    [(WORDPIECE, "##{}"), (Scheme("byte-level", "Ġ"), "Ġ{}"), (Scheme("metaspace", "▁"), "▁{}")],
    ids=["wordpiece", "byte-level", "metaspace"],
)
def test_n_hot_members_are_those_of_the_text(scheme: Scheme, pattern: str) -> None:
    entries = ["geldi", "gel", "di", pattern.format("geldi."), pattern.format("el"), ".", pattern.format("Gel")]
    members = nhot.substrings(scheme.forms(entries), np.ones(len(entries), bool))
    named = {entries[i]: {entries[j] for j in listed} for i, listed in enumerate(members)}
    inner = {"geldi", "gel", "di", pattern.format("el")}
    assert named == {
        "geldi": inner,
        "gel": {"gel", pattern.format("el")},
        "di": {"di"},
        pattern.format("geldi."): {*inner, pattern.format("geldi."), "."},
        pattern.format("el"): {pattern.format("el")},
        ".": {"."},
        pattern.format("Gel"): {pattern.format("Gel"), pattern.format("el")},
    }


def test_bytes_are_read_as_characters_and_stay_bytes_where_they_are_none() -> None:
    entries = ["ĠbÃ¼yÃ¼k", "Ã¼", "Ã", "ĠÃ", "Ġ", "Ġà¤", "1990", "ĊĠa", "<mask>", "東京|x"]
    found = forms(*entries, scheme=Scheme("byte-level", "Ġ"))
    assert found.texts == ["büyük", "ü", "<0xC3>", "<0xC3>", "", "<0xE0><0xA4>", "1990", "a", "<mask>", "東京|x"]
    assert found.begins.tolist() == [True, False, False, True, True, True, False, True, False, True]
    assert found.whole.tolist() == [True, True, False, False, True, False, True, True, True, True]
    assert found.labels[:4] == ["Ġbüyük", "ü", "<0xC3>", "Ġ<0xC3>"]
    by_trigram = trigram_keys(found)
    assert {by_trigram.names[key] for key in by_trigram.key[by_trigram.token == 0]} == {
        "<bü", "büy", "üyü", "yük", "ük>",
    }  # fmt: skip
    assert not set(by_trigram.token) & {2, 3, 5}, "a byte that is no character has no trigrams"
    kinds = [kind(found, i) for i in (0, 1, 2, 3, 4, 6)]
    assert kinds == ["word", "continuation", "continuation", "word", "word", "number"], "a space alone begins a word"
    members = nhot.substrings(found, np.ones(10, bool))
    assert members[2] == [2]
    assert members[0] == [0, 1]


def test_single_bytes_of_a_sentencepiece_vocabulary_are_no_text() -> None:
    found = forms("<0xC3>", "▁a", "a▁b", "▁", scheme=Scheme("metaspace", "▁", bytes=True))
    assert (found.texts, found.whole.tolist()) == (["<0xC3>", "a", "a▁b", ""], [False, True, True, True])
    assert found.begins.tolist() == [False, True, False, True]
    assert forms("<0xC3>", scheme=Scheme("metaspace", "▁")).whole.tolist() == [True], (
        "text, where bytes have no entries"
    )


def test_the_scheme_is_read_off_the_tokenizer() -> None:
    assert scheme_of(wordpiece(100)[0]) == WORDPIECE
    assert scheme_of(byte_bpe(100)[0]) == Scheme("byte-level", "Ġ")
    assert scheme_of(unigram(100)[0]) == scheme_of(bpe(100)[0]) == Scheme("metaspace", "▁")
    llama = Tokenizer(models.BPE(byte_fallback=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    assert scheme_of(llama) == Scheme("metaspace", "▁", bytes=True)
    xlm = unigram(100)[0]
    xlm.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    assert scheme_of(xlm) == Scheme("metaspace", "▁")
    other = wordpiece(100)[0]
    other.model = models.WordPiece(continuing_subword_prefix="@@")
    other.decoder = decoders.WordPiece(prefix="@@")
    assert scheme_of(other) == Scheme("wordpiece", "@@")


def suffixed() -> Tokenizer:
    """The end of a word is marked, as in the first BPE: entries do not tell where one begins."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.BPEDecoder()
    return tokenizer


def spaceless() -> Tokenizer:
    """Byte-level, but the spaces are gone before the model sees the text."""
    tokenizer = byte_bpe(100)[0]
    before = [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(before)
    return tokenizer


def unsplit() -> Tokenizer:
    """WordPiece over whole lines: the second word of a line would continue the first."""
    tokenizer = wordpiece(100)[0]
    tokenizer.pre_tokenizer = None  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


@pytest.mark.parametrize("make", [suffixed, spaceless, unsplit])
def test_a_scheme_that_does_not_tell_is_unknown(make: Callable[[], Tokenizer]) -> None:
    assert scheme_of(make()) == UNKNOWN


@pytest.mark.usefixtures("own_cache")
def test_rules_of_words_are_refused_where_words_are_unknown_and_the_others_run(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = suffixed()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIALS, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(text(), trainer)
    trained = {**trained, "suffixed": save(tokenizer, tmp_path / "suffixed")}
    facts = mlm.prepare(settings(trained, "suffixed"))
    for changes, named in (
        ({"masking": {"shares": {"random": 0.5, "whole_word": 0.5}}}, "masking.shares.whole_word must"),
        ({"masking": {"shares": {"random": 0.5, "pmi": 0.5}}}, "masking.shares.pmi must"),
        ({"masking": {"shares": {"random": 0.5, "trigram": 0.5}}}, "masking.shares.trigram must"),
        ({"masking": {"policy": "amlm"}, "model": {"embedding": "nhot"}}, "model.embedding nhot must"),
    ):
        asked = settings(trained, "suffixed", **{key: value for key, value in changes.items() if key != "model"})
        if "model" in changes:
            asked = asked.model_copy(update={"model": asked.model.model_copy(update=changes["model"])})
        for refused in (lambda asked=asked: mlm.check(asked, facts), lambda asked=asked: run(asked, tmp_path)):
            with pytest.raises(ValueError, match=named) as raised:
                refused()
            assert "random, token, span, rarity and informask, and policy amlm run without it" in str(raised.value)
    for masking in ({"shares": {"random": 0.5, "token": 0.5}}, {"policy": "amlm"}):
        row = run(settings(trained, "suffixed", masking=masking), tmp_path).rows[-1]
        assert row["audit/rate"] == pytest.approx(0.15, abs=0.001)


def test_what_was_prepared_says_how_words_are_known(trained: dict[str, Path], own_cache: Path) -> None:
    del own_cache
    found = mlm.prepare(settings(trained, "byte-bpe"))
    assert found["word_scheme"] == "byte-level"
    assert json.loads((batches.prepare(DataConfig.model_validate(settings(trained, "byte-bpe").data)).folder
                       / "prepared.json").read_text("utf-8"))["scheme"]["mark"] == "Ġ"  # fmt: skip
