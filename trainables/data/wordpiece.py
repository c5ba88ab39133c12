"""WordPiece trained on the train part.

The training in `tokenizers` numbers the continuing characters (`##e`) in the order of a randomly seeded hash table, and
breaks ties between merges by those numbers: two trainings on one text differ. Here the characters are numbered first,
which makes the vocabulary a function of the text.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables import limits
from trainables.data.vocabulary import MIN_ENTRIES, SPECIALS, Vocabulary, bert_ends, bert_pipeline

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_ALPHABET = 1000
COVERED = 0.999  # share of a text's characters in the alphabet that a remedy names
LONGEST_WORD = 100  # characters; to WordPiece a longer word is unknown


@dataclass(frozen=True)
class Trained:
    """BERT WordPiece, trained on the lines of the train part.

    Args:
        size: the most entries.
        cased: keep case, not lower-case it.
        accents: keep accents and vowel signs, composed (NFC), not strip them.
        alphabet: how many characters may have entries; None is min(1000, size / 4).
    """

    size: int
    cased: bool = False
    accents: bool = False
    alphabet: int | None = None

    @staticmethod
    def parse(name: str) -> Trained:
        """`train:SIZE`, and any of `,cased`, `,accents` and `,alphabet=N`. ValueError in one line."""
        size, *options = name.removeprefix("train:").split(",")
        if not re.fullmatch(r"[0-9]+", size) or int(size) < MIN_ENTRIES:
            raise ValueError(f"data.tokenizer {name}: SIZE must be a whole number of at least {MIN_ENTRIES}")
        if len(size) > 9 or int(size) > limits.ENTRIES:
            raise ValueError(f"data.tokenizer {name:.60}: SIZE must be at most {limits.ENTRIES:,}")
        given: dict[str, Any] = {}
        for option in options:
            word, equals, value = option.strip().partition("=")
            if word == "alphabet" and (not re.fullmatch(r"[0-9]+", value) or not 0 < 2 * int(value) < int(size)):
                raise ValueError(f"data.tokenizer {name}: alphabet=N must be a whole number below half of {size}")
            if word not in ("cased", "accents", "alphabet") or (equals and word != "alphabet"):
                near = difflib.get_close_matches(word, ("cased", "accents", "alphabet=N"), 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else "there are cased, accents and alphabet=N"
                raise ValueError(f"data.tokenizer {name}: train:SIZE has no option {option.strip()!r}; {hint}")
            given[word] = int(value) if equals else True
        return Trained(int(size), **given)

    @property
    def name(self) -> str:
        """As `data.tokenizer` spells it."""
        alphabet = f"alphabet={self.alphabet}" if self.alphabet else ""
        options = ("cased" if self.cased else "", "accents" if self.accents else "", alphabet)
        return ",".join([f"train:{self.size}", *filter(None, options)])

    def identity(self) -> str:
        return self.name.replace(":", " ")

    def obtain(self, lines: Iterable[str]) -> Vocabulary:
        from tokenizers import Tokenizer, models, trainers

        lines = self._learnable(lines)
        characters, continuing = self._alphabet(lines)
        specials = list(SPECIALS.values())
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.size,
            special_tokens=specials + continuing,  # the one list whose order the trainer keeps
            initial_alphabet=characters,
            limit_alphabet=len(characters),
            show_progress=False,
        )
        learner = self._pipeline(Tokenizer(models.WordPiece(unk_token="[UNK]")))
        learner.train_from_iterator(lines, trainer, length=len(lines))

        tokenizer = self._pipeline(Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]")))
        vocabulary = Vocabulary.check(tokenizer, SPECIALS, f"data.tokenizer {self.name}, as trained,")
        return bert_ends(vocabulary)

    def _learnable(self, lines: Iterable[str]) -> list[str]:
        """The lines without words beyond `limits.LONGEST_WORD`: training time grows with their square."""
        from tokenizers import Tokenizer, models

        pipeline = self._pipeline(Tokenizer(models.WordPiece()))

        def kept(line: str) -> str:
            if len(line) <= limits.LONGEST_WORD or max(map(len, line.split()), default=0) <= limits.LONGEST_WORD:
                return line
            words = pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(line))
            fit = [word for word, _ in words if len(word) <= limits.LONGEST_WORD]
            return line if len(fit) == len(words) else " ".join(fit)

        return [kept(line) for line in lines]

    def remedy(self, lines: Iterable[str]) -> str:
        """What to name instead: an alphabet that covers the text, or, if this one does, another tokenizer."""
        lines = list(lines)
        counts = self._counted(lines)
        times = np.sort(np.array([*counts.values()]))[::-1].cumsum()
        enough = int(np.searchsorted(times, COVERED * times[-1])) + 1 if len(times) else 0
        if enough <= self._limit:
            return self._other_remedy(lines)
        size = max(self.size, 2 ** math.ceil(math.log2(4 * enough)))
        alphabet = enough if enough > MAX_ALPHABET or self.alphabet else None
        better = Trained(size, self.cased, self.accents, alphabet).name
        return (
            f"the alphabet of {self.name} has {self._limit:,} characters, and {100 * COVERED:g} % of the text takes "
            f"{enough:,}: use {better}"
        )

    def _other_remedy(self, lines: list[str]) -> str:
        from tokenizers import Tokenizer, models

        pipeline = self._pipeline(Tokenizer(models.WordPiece()))
        for text in (text for line in lines for text in line.split() if len(text) > LONGEST_WORD):
            words = pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(text))
            if any(len(word) > LONGEST_WORD for word, _ in words):
                advice = "for a script without spaces name a folder with a SentencePiece model"
                return f"words of more than {LONGEST_WORD} characters are unknown as a whole; {advice}"
        return "the train part lacks characters that the others have: give more text, or name a tokenizer that has them"

    @property
    def _limit(self) -> int:
        return self.alphabet or min(MAX_ALPHABET, self.size // 4)

    def _pipeline(self, tokenizer: Tokenizer) -> Tokenizer:
        if not (self.cased or self.accents):
            return bert_pipeline(tokenizer)
        return bert_pipeline(tokenizer, lowercase=not self.cased, strip_accents=not self.accents, compose=self.accents)

    def _alphabet(self, lines: list[str]) -> tuple[list[str], list[str]]:
        """The most frequent characters after normalisation, and the continuing forms (`##e`) that they can take.

        Among equally frequent characters the trainer's own limit drops some at random; here the lower code points stay.
        """
        from tokenizers import Tokenizer, models

        pipeline, counts = self._pipeline(Tokenizer(models.WordPiece())), self._counted(lines)
        kept = sorted(sorted(+counts, key=lambda character: (-counts[character], character))[: self._limit])

        def continues(character: str) -> bool:
            normal = pipeline.normalizer.normalize_str("a" + character)
            return len(pipeline.pre_tokenizer.pre_tokenize_str(normal)) == 1

        return kept, ["##" + character for character in kept if continues(character)]

    def _counted(self, lines: list[str]) -> Counter[str]:
        """How often each character occurs in the text after normalisation."""
        from tokenizers import Tokenizer, models

        normalizer = self._pipeline(Tokenizer(models.WordPiece())).normalizer
        raw = np.zeros(0x110000, np.int64)
        for begin in range(0, len(lines), 10_000):
            text = "\n".join(lines[begin : begin + 10_000])
            text = unicodedata.normalize("NFC", text) if self.accents else text
            found, times = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
            raw[found] += times
        counts: Counter[str] = Counter()
        for point in np.flatnonzero(raw).tolist():
            for character in normalizer.normalize_str(chr(point)):
                counts[character] += 0 if character.isspace() else int(raw[point])
        return counts
