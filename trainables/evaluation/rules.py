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
            has another number than in `SIZES`.
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

# Items by subtask, in lower case, of the tasks that have several.
_BLIMP = """
adjunct_island 928, anaphor_gender_agreement 971, anaphor_number_agreement 931, animate_subject_passive 895,
animate_subject_trans 923, causative 818, complex_np_island 846,
coordinate_structure_constraint_complex_left_branch 906, coordinate_structure_constraint_object_extraction 949,
determiner_noun_agreement_1 929, determiner_noun_agreement_2 931, determiner_noun_agreement_irregular_1 681,
determiner_noun_agreement_irregular_2 820, determiner_noun_agreement_with_adj_2 941,
determiner_noun_agreement_with_adj_irregular_1 718, determiner_noun_agreement_with_adj_irregular_2 840,
determiner_noun_agreement_with_adjective_1 933, distractor_agreement_relational_noun 788,
distractor_agreement_relative_clause 871, drop_argument 920, ellipsis_n_bar_1 802, ellipsis_n_bar_2 828,
existential_there_object_raising 812, existential_there_quantifiers_1 930, existential_there_quantifiers_2 911,
existential_there_subject_raising 924, expletive_it_object_raising 759, inchoative 855, intransitive 868,
irregular_past_participle_adjectives 961, irregular_past_participle_verbs 942,
irregular_plural_subject_verb_agreement_1 804, irregular_plural_subject_verb_agreement_2 892,
left_branch_island_echo_question 947, left_branch_island_simple_question 951,
matrix_question_npi_licensor_present 929, npi_present_1 909, npi_present_2 914, only_npi_licensor_present 882,
only_npi_scope 837, passive_1 840, passive_2 903, principle_a_c_command 946, principle_a_case_1 912,
principle_a_case_2 915, principle_a_domain_1 914, principle_a_domain_2 915, principle_a_domain_3 941,
principle_a_reconstruction 967, regular_plural_subject_verb_agreement_1 890,
regular_plural_subject_verb_agreement_2 945, sentential_negation_npi_licensor_present 919,
sentential_negation_npi_scope 871, sentential_subject_island 961, superlative_quantifiers_1 979,
superlative_quantifiers_2 986, tough_vs_raising_1 948, tough_vs_raising_2 920, transitive 868, wh_island 960,
wh_questions_object_gap 859, wh_questions_subject_gap 898, wh_questions_subject_gap_long_distance 857,
wh_vs_that_no_gap 861, wh_vs_that_no_gap_long_distance 875, wh_vs_that_with_gap 919,
wh_vs_that_with_gap_long_distance 910
"""
_SUPPLEMENT = (
    "hypernym 842, qa_congruence_easy 64, qa_congruence_tricky 165, subject_aux_inversion 3867, turn_taking 280"
)
_EWOK = """
agent-properties 2210, material-dynamics 770, material-properties 170, physical-dynamics 120,
physical-interactions 556, physical-relations 818, quantitative-properties 314, social-interactions 294,
social-properties 328, social-relations 1548, spatial-relations 490
"""
_COMPS = "base 49340, wugs 13896, wugs_dist_before 13896, wugs_dist_in_between 13896"
_OPERATIONS = {  # 0 to 5 of them
    "regular": (517, 409, 405, 425, 388, 94),
    "ambiref": (508, 428, 413, 409, 434, 123),
    "move_contents": (516, 437, 399, 406, 353, 116),
}


def _counted(text: str) -> dict[str, int]:
    return {name: int(many) for name, many in (each.split() for each in text.split(","))}


def _tracked(*files: str) -> dict[str, int]:
    return {f"{name}_{n}_ops": many for name in files for n, many in enumerate(_OPERATIONS[name])}


SIZES = {
    "blimp": _counted(_BLIMP),
    "blimp_supplement": _counted(_SUPPLEMENT),
    "ewok": _counted(_EWOK),
    "entity_tracking_filtered": _tracked(*_OPERATIONS),
    "comps": _counted(_COMPS),
}
FAST_SIZES = {
    "blimp": dict.fromkeys(SIZES["blimp"], 200),
    "blimp_supplement": dict.fromkeys(SIZES["blimp_supplement"], 50),
    "ewok": dict.fromkeys(SIZES["ewok"], 100),
    "entity_tracking_filtered": _tracked("regular"),
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

# (Super)GLUE (eval_finetuning.sh, finetune/run.py): AdamW, a cosine after a linear warm-up, the best epoch of all. A
# text is read at its last position, padded on the left; in 2025 it was the first, padded on the right.
GLUE = "glue_filtered"
GLUE_ITEMS = {"boolq": 1_635, "mnli": 4_908, "mrpc": 204, "multirc": 2_424, "qqp": 20_215, "rte": 139, "wsc": 52}
GLUE_TASKS = tuple(GLUE_ITEMS)
RATE, WARMUP, FINAL = 3e-5, 0.06, 0.1  # the largest; share of the steps in which it rises; factor at the end
WEIGHT_DECAY, DROPOUT, NORM_EPS = 0.01, 0.1, 1e-5  # the last two of the head
EPOCHS, WSC_EPOCHS = 10, 30
BATCH, SMALL_BATCH, VALID_BATCH = 32, 16, 64  # rows; the small one for boolq and multirc
LENGTH = 512  # tokens

# Age of acquisition.
CONTEXTS, CHILDREN = "aoa/cdi_childes.json", "aoa/cdi_human.csv"
AOA_ITEMS = 8_005  # contexts, of 504 words; a word of one character is left out
AGES = tuple(range(16, 31))  # months
SHORTEST_WORD = 2  # characters
LARGEST_P = 0.1  # a correlation with a larger p counts as 0
FEWEST = 3  # words, or points of a curve
ACQUIRED = 0.5  # the share of children, and of the way from chance to the least surprisal

# The strict-small track: the most words of its corpus, and the most that a model may see, every pass counted anew. No
# track allows more passes than that over its training data (guidelines of 2026, by participants who quote them).
CORPUS_WORDS, SEEN_WORDS, PASSES = 10_000_000, 100_000_000, 10

# Its series; the revisions of a submission have these names. A shorter run hands in those that it reached.
WORDS = tuple(millions * 10**6 for millions in (*range(1, 10), *range(10, 101, 10)))
CHECKPOINTS = tuple(f"chck_{words // 10**6}M" for words in WORDS)


def subtasks_weigh(groups: list[str], splits: list[str]) -> list[float]:
    """[g] weights that add up to 1: those of a split share its weight, and the splits weigh the same."""
    return [1 / (len(set(splits)) * splits.count(split)) for _, split in zip(groups, splits, strict=True)]


def columns(given: str | None) -> list[str]:
    """The columns that --columns names; all by default. ValueError, in one line, for one that is not there."""
    names = given.split(",") if given else list(COLUMNS)
    if unknown := [name for name in names if name not in COLUMNS]:
        raise ValueError(f"--columns {unknown[0]}: there are {', '.join(COLUMNS)}")
    return names
