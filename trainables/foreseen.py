"""What a preparation would find, told from what is at hand: nothing is made, and nothing is fetched."""

from __future__ import annotations

from typing import Any

from sweeper import files
from trainables import corpus, data, dropped, tokenizer
from trainables.config import ASSUMED_ENTRIES, DataConfig
from trainables.preparation import Preparation

CHARACTERS = 1_000_000  # of the corpus, from its beginning, are looked at


def facts(config: DataConfig) -> dict[str, Any]:
    """`notes` and `warnings`, lines for people, and what they are made of: the preparation's own where there is one.

    Else a sample of the corpus is tokenised, after training on it where a tokenizer is trained. ValueError, in one
    line, for a tokenizer or a corpus that cannot be had or will not do.
    """
    elsewhere = config.corpus.startswith("hub:")
    if not elsewhere and data.is_prepared(config):
        return data.prepare(config).facts
    try:
        words = tokenizer.find(config.tokenizer, ask=False)
    except tokenizer.NotHere:
        assumed = f"{ASSUMED_ENTRIES:,} entries are assumed, for a plan fetches nothing"
        return {"notes": [f"the tokenizer {config.tokenizer} is not on this machine: {assumed}"], "warnings": []}
    trained = words if isinstance(words, tokenizer.Trained) else None
    if elsewhere:
        note = dropped.does(trained) if trained else dropped.entries(words.obtain(()).described())
        return {"notes": [note], "warnings": []}
    sample, whole = _sample(config)
    try:
        told = Preparation(config, corpus.Parts(sample, [], [], 0), words).looked_over()
    except ValueError as error:
        if whole:
            raise
        if not trained:
            words.obtain(())  # a tokenizer that will not do is refused
        return {"notes": [], "warnings": [f"{error}, in the first {CHARACTERS:,} characters"]}
    told |= {"tokenizer": config.tokenizer}
    if trained:
        told |= {"vocabulary": trained.size, "most": True}
    told["parts"] = {"the corpus" if whole else f"its first {CHARACTERS:,} characters": told["parts"]["train"]}
    return told | {"notes": dropped.notes(told), "warnings": dropped.warnings(told)}


def _sample(config: DataConfig) -> tuple[list[corpus.Document], bool]:
    """Documents from the beginning of the corpus, and whether they are all of it."""
    found, seen = [], 0
    for text in corpus.find(config.corpus, files.cache_root() / "hub").texts():
        if seen >= CHARACTERS:
            return found, False
        if text.split():
            found.append(corpus.Document(text, len(text.split()), b""))
            seen += len(text)
    if not found:
        raise ValueError(f"data.corpus {config.corpus} has no text")
    return found, True
