"""The masking policies, and the sources that a mixture's shares are drawn from; free of torch, as settings are.

The settings take the names from here, the masking the classes, and the model card the words.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What a name of the settings stands for.

    Args:
        words: in the model card: after a source's share, as in "12.0% as spans", or after a policy's rate, as in "with
            14.8% of the positions predicted: in runs of five".
        made_by: module:callable, of a source as in sources.py, of a policy as in mixture.py.
    """

    words: str
    made_by: str


SOURCES: dict[str, Entry] = {
    "random": Entry("at random", "trainables.masking.sources:Random"),
    "token": Entry("by token score", "trainables.masking.sources:token"),
    "trigram": Entry("by trigram score", "trainables.masking.sources:trigram"),
    "whole_word": Entry("as whole words", "trainables.masking.sources:WholeWord"),
    "span": Entry("as spans", "trainables.masking.sources:Span"),
    "rarity": Entry("by rarity", "trainables.masking.sources:Rarity"),
    "pmi": Entry("as collocations and whole words", "trainables.masking.sources:Pmi"),
    "informask": Entry("by relevance to the sentence", "trainables.masking.sources:informask"),
}

POLICIES: dict[str, Entry] = {  # these two are told by their settings (described.py), one's own by its words
    "mixture": Entry("", "trainables.masking.mixture:Mixture"),
    "amlm": Entry("", "trainables.masking.amlm:Amlm"),
}
BUILT_IN = frozenset(POLICIES)  # their mask warm-up is random masking, to the bit

# What a step asks `StepNoise.get_or_draw` for beside the sources by their own names. A source that was called so would
# get the step's draw where draws are made ahead, or the step that of the source.
STARTS = frozenset({"word start", "collocation start"})  # batches.py, for every source that asks its vocabulary
LOOP_DRAWS = frozenset(
    {
        *("tokens", "blocks"),  # batches.py
        *("corrupt", "corrupt rows", "replace", "other"),  # replacement.py
        "rate",  # optimiser.py
    }
)
POLICY_DRAWS = frozenset({"quotas", "span length", "row totals", "amlm", "amlm order", "amlm start"})
OWN_DRAWS = STARTS | LOOP_DRAWS | POLICY_DRAWS
