"""What the BabyLM challenge of 2026 asks for, all in one file because it moves every year.

Read in the challenge's pipeline (github.com/babylm-org/babylm-eval, folder `strict`: collate_preds.py at 6f825c2), in
forks that hold its other files (github.com/serdardoesml/babylm-eval at c9e7b70 and a66e05d, and
github.com/tgiles4/babylm-eval at 16fcfbc) and, for what is unchanged since, in that of 2025
(github.com/babylm/evaluation-pipeline-2025). The leaderboard's own code was not at hand: that a column of two parts is
their plain mean, that AoA counts 100 times the correlation, and that the total is the mean of the nine columns, is what
a participant found who read it, and whose published columns add up so
(github.com/Oxelra-AI/Qiushi-Engine-Babylm-Research).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

YEAR = 2026
FULL, FAST = "full_eval", "fast_eval"

Rule = Literal["official", "ours"]
COLUMNS = {
    "blimp": "BLiMP",
    "supplement": "Supplement",
    "ewok": "EWoK",
    "entity_tracking": "Entity tracking",
    "comps": "COMPS",
    "glue": "(Super)GLUE",
    "global_piqa": "GlobalPIQA",
    "reading": "Reading",
    "aoa": "AoA",
}  # in the order of the leaderboard; the total is the mean of the nine


@dataclass(frozen=True)
class Part:
    """One task of the pipeline.

    Args:
        column: a key of `COLUMNS`. Its score is the mean of its parts, if it has several.
        task: how its data are read, a name in `completions.READERS`; or `reading`.
        full: where its data lie in `full_eval`.
        fast: where they lie in `fast_eval`; None if the fast evaluation leaves the task out.
        items: how many there are in the full data. The pipeline's collation throws a task away if any of its subtasks
            has another number; it has the numbers by subtask, we have the sum.
        fast_items: the same for the fast data.
    """

    column: str
    task: str
    full: str
    fast: str | None
    items: int
    fast_items: int | None = None


# By the key in a submission. Entity tracking is called `filtered` because items with `nothing` are left out.
PARTS = {
    "blimp": Part("blimp", "blimp", "blimp_filtered", "blimp_fast", 59_875, 13_400),
    "blimp_supplement": Part("supplement", "blimp", "supplement_filtered", "supplement_fast", 5_218, 250),
    "ewok": Part("ewok", "ewok", "ewok_filtered", "ewok_fast", 7_618, 1_100),
    "entity_tracking_filtered": Part(
        "entity_tracking", "entity_tracking", "entity_tracking", "entity_tracking_fast", 6_780, 2_238
    ),
    "comps": Part("comps", "comps", "comps", None, 91_028),
    "global_piqa_parallel": Part(
        "global_piqa", "global_piqa", "global_piqa_parallel", "global_piqa_parallel", 103, 103
    ),
    "global_piqa_nonparallel": Part(
        "global_piqa", "global_piqa", "global_piqa_nonparallel", "global_piqa_nonparallel", 100, 100
    ),
    "reading": Part("reading", "reading", "reading/reading_data.csv", "reading/reading_data.csv", 1_726, 1_726),
}

# Entity tracking: the mean of these files, each the mean over numbers of operations, without items that say the word.
SPLITS = ("regular", "ambiref", "move_contents")
LEFT_OUT = "nothing"

# COMPS: what the pipeline calls each file's items.
COMPS = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}

# Reading: a word is predicted at the first of these masks, put after its context without a space.
MASKS = 3
EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED = "self_paced_reading_time"
PREDICTORS = ("Subtlex_log10", "length", "context_length")  # and each product of two
SPILL_OVER = ("prev_length", "prev_pred")  # further predictors of self-paced reading
NO_CONTEXT = "None"  # stands for a context that is empty in the file

# (Super)GLUE, whose settings are in glue.py.
GLUE = "glue_filtered"
GLUE_TASKS = ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")

# Age of acquisition.
CONTEXTS, CHILDREN = "aoa/cdi_childes.json", "aoa/cdi_human.csv"
AOA_ITEMS = 8_005  # contexts, of 504 words; a word of one character is left out
AGES = tuple(range(16, 31))  # months
SHORTEST_WORD = 2  # characters
LARGEST_P = 0.1  # a correlation with a larger p counts as 0
FEWEST = 3  # words, or points of a curve
ACQUIRED = 0.5  # the share of children, and of the way from chance to the least surprisal

# The series of the strict-small track; its revisions have these names.
WORDS = tuple(millions * 10**6 for millions in (*range(1, 10), *range(10, 101, 10)))
CHECKPOINTS = tuple(f"chck_{words // 10**6}M" for words in WORDS)


def subtasks_weigh(groups: list[str], splits: list[str]) -> list[float]:
    """[g] weights that add up to 1: those of a split share its weight, and the splits weigh the same."""
    return [1 / (len(set(splits)) * splits.count(split)) for _, split in zip(groups, splits, strict=True)]
