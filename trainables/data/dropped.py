"""What a tokenizer drops of a text: differences between words, and characters that it has no pieces for.

As numbers, and as lines for people. A word is a run of letters, marks and digits. Two spellings of one character (NFC
and NFD) count as equal.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trainables.data import special_tokens
from trainables.data.wordpiece import Trained

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS = 2_000_000  # of a text that are looked at, from the beginning
LINES = 200_000  # likewise
NOTEWORTHY = 0.01  # a share of unknown tokens, or of blocks left out, above this is worth a warning


class _Breaks(dict[int, int | str]):
    """For str.translate: a space for every character that is not part of a word."""

    def __missing__(self, point: int) -> int | str:
        kind = unicodedata.category(chr(point))
        self[point] = found = point if kind[0] in "LMN" or kind == "Cf" else " "
        return found


_BREAKS = _Breaks()


def made_equal(normalise: Callable[[str], str], lines: Iterable[str]) -> dict[str, Any]:
    """The share of the running words that become equal to another, commoner word of the text.

    Returns, by name:
        words: how many were looked at.
        whole: whether these are all.
        share: of words with the normal form of a commoner word (among equally common ones: of the first by code point).
        by_case: the same, of a word that differs in case alone.
        by_accents: the same, of a word that differs in more.
        joined: share of the words that lose a format character, such as the joiners of Persian and Sinhala.

    Args:
        normalise: what the tokenizer does to a word before it splits it.
        lines: of the text.
    """
    spaced: Counter[str] = Counter()
    seen, whole = 0, True
    for line in lines:
        if seen >= WORDS:
            whole = False
            break
        found = line.split()
        spaced.update(found)
        seen += len(found)
    words: Counter[str] = Counter()
    for text, times in spaced.items():
        for word in unicodedata.normalize("NFC", text).translate(_BREAKS).split():
            words[word] += times
    alike: defaultdict[str, list[str]] = defaultdict(list)
    sums: Counter[str] = Counter()
    for word, times in words.items():
        normal = normalise(word)
        alike[normal].append(word)
        sums["joined"] += times * (_formats(word) > _formats(normal))
    for forms in alike.values():
        commoner: set[str] = set()
        for form in sorted(forms, key=lambda form: (-words[form], form)):
            lower = form.lower()
            sums["share"] += words[form] * bool(commoner)
            sums["by_case"] += words[form] * (lower in commoner)
            sums["by_accents"] += words[form] * bool(commoner - {lower})
            commoner.add(lower)
    total = max(1, words.total())
    shares = {name: round(sums[name] / total, 6) for name in ("share", "by_case", "by_accents", "joined")}
    return {"words": words.total(), "whole": whole, **shares}


def lost(tool: Tokenizer, lines: Iterable[str]) -> float:
    """The share of the characters that get no token: a BPE without an unknown token leaves them out."""
    from tokenizers.models import BPE

    if not isinstance(tool.model, BPE) or tool.model.unk_token:
        return 0.0
    counts = Counter(itertools.chain.from_iterable(itertools.islice(lines, LINES)))
    normalise = tool.normalizer.normalize_str if tool.normalizer else str

    def leaves_nothing(character: str) -> bool:
        once, twice = (tool.encode(text, add_special_tokens=False).ids for text in (character, 2 * character))
        return once == twice and bool(normalise(character).strip())

    gone = sum(times for character, times in counts.items() if not character.isspace() and leaves_nothing(character))
    return round(gone / max(1, counts.total()), 6)


def _formats(word: str) -> int:
    return 0 if word.isascii() else sum(unicodedata.category(character) == "Cf" for character in word)


def notes(facts: Mapping[str, Any]) -> list[str]:
    """Lines for the plan, the report and the model card."""
    lines = [entries(facts), *_equal(str(facts["tokenizer"]), facts["made_equal"])]
    if unknown := facts["special_tokens"].get("unk"):
        lines.append(f"`{unknown}` stands for {_shares(facts, 'unknown', 'tokens')}")
    if facts["lost"]:
        lines.append(f"{_percent(facts['lost'])} of the characters get no token")
    if any(part["left_out"] for part in facts["parts"].values()):
        lines.append(f"{_shares(facts, 'left_out', 'blocks')} are left out: more than half of each is special tokens")
    else:
        lines.append("no block is left out")
    return lines


def entries(facts: Mapping[str, Any]) -> str:
    """A line with the size of the vocabulary and its special tokens."""
    tokens = facts["special_tokens"]
    special = ", ".join(f"`{tokens[role]}` ({role})" for role in special_tokens.ROLES if role in tokens)
    return f"the tokenizer has {facts['vocabulary']:,} entries, with {special}"


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """A line on the text that is not trained on, if that is much, and what to do."""
    if not much(facts):
        return []
    unknown, left_out = (max(part[key] for part in facts["parts"].values()) for key in ("unknown", "left_out"))
    why = [f"{_percent(facts['lost'])} of the characters get no token"] if facts["lost"] > NOTEWORTHY else []
    if unknown > NOTEWORTHY:
        why.append(f"`{facts['special_tokens']['unk']}` stands for {_shares(facts, 'unknown', 'tokens')}")
    if left_out > NOTEWORTHY:
        why.append(f"{_shares(facts, 'left_out', 'blocks')} are left out")
    return [f"{', and '.join(why)}, so losses cover only the rest of the text: {facts['remedy']}"]


def does(trained: Trained) -> str:
    """What a trained tokenizer does to case and accents, as a line for people."""
    drops = ("" if trained.cased else "lower-cases", "" if trained.accents else "strips accents and vowel signs")
    return f"{trained.name} {' and '.join(filter(None, drops)) or 'keeps case, accents and vowel signs'}"


def much(facts: Mapping[str, Any]) -> bool:
    """Whether so much of the text is not trained on that it is worth a warning."""
    shares = [part[key] for part in facts["parts"].values() for key in ("unknown", "left_out")]
    return max([*shares, facts["lost"]]) > NOTEWORTHY


def _equal(name: str, found: Mapping[str, Any]) -> list[str]:
    """Lines on words that become equal."""
    what, keeps = "the tokenizer makes different words equal", ""
    if name.startswith("train:"):
        trained = Trained.parse(name)
        what = does(trained)
        options = (("cased", trained.cased), ("accents", trained.accents))
        missing = [option for option, there in options if not there]
        keeps = f"; {','.join([trained.name, *missing])} keeps them apart" if missing else ""
    elif not (found["share"] or found["joined"]):
        return []
    words = f"{'all' if found['whole'] else 'the first'} {found['words']:,} running words"
    by = f"{_percent(found['by_case'])} by case, {_percent(found['by_accents'])} by accents, vowel signs or the like"
    if found["share"]:
        lines = [f"{what}: {_percent(found['share'])} of {words} become equal to another, commoner word ({by}){keeps}"]
    else:
        lines = [f"{what}; none of {words} becomes equal to another word"]
    if found["joined"]:
        joined = _percent(found["joined"])
        lines.append(f"format characters, such as zero-width joiners, are removed from {joined} of the running words")
    return lines


def _shares(facts: Mapping[str, Any], key: str, unit: str) -> str:
    """A share by part, as in `2 % of the tokens of train, 1 % of val`."""
    shares = {name: part[key] for name, part in facts["parts"].items()}
    (first, share), *others = sorted(shares.items(), key=lambda part: "train val test".find(part[0]))
    rest = "".join(f", {_percent(share)} of {name}" for name, share in others)
    return f"{_percent(share)} of the {unit} of {first}{rest}"


def _percent(share: float) -> str:
    return "0 %" if not share else f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.1f} %"
