"""Made-up data in the layouts of the challenge's pipeline, and a series of checkpoints made without training."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.trainables.probes import reversed_words, write_rows
from tests.trainables.texts import sentences
from trainables.data.vocabulary import Vocabulary
from trainables.evaluation import rules

Rows = list[dict[str, Any]]
MEASURES = (*rules.EYE_TRACKING, rules.SELF_PACED)


def write_challenge(folder: Path, items: int = 8) -> Path:
    """A folder with full_eval and fast_eval: so many items in every file, and 8 times as many words that were read."""
    for kind in (rules.FULL, rules.FAST):
        size = items if kind == rules.FULL else max(4, items // 2)
        write_kind(folder / kind, size, kind == rules.FAST)
    return folder


def write_kind(folder: Path, items: int, fast: bool) -> None:
    """full_eval or fast_eval."""
    ending = "fast" if fast else "filtered"
    for number, name in enumerate(("agreement", "islands", "binding")):
        told = {"field": "syntax", "linguistics_term": "order", "UID": name}
        write_rows(folder / f"blimp_{ending}" / f"{name}.jsonl", [each | told for each in pairs(items, number)])
    for number, name in enumerate(("hypernym", "turn_taking")):
        write_rows(folder / f"supplement_{ending}" / f"{name}.jsonl", pairs(items, 10 + number))
    for number, name in enumerate(("social-relations", "physical-dynamics")):
        write_rows(folder / f"ewok_{ending}" / f"{name}.jsonl", ewok(items, 20 + number, name))
    entities = folder / ("entity_tracking_fast" if fast else "entity_tracking")
    for number, name in enumerate(rules.SPLITS[: 1 if fast else None]):
        write_rows(entities / f"{name}.jsonl", entity_tracking(items, 30 + number, numops=2 + number))
    if not fast:
        for number, name in enumerate(rules.COMPS):
            write_rows(folder / "comps" / f"{name}.jsonl", comps(items, 40 + number))
        write_acquisition(folder, items + 4)
    for name, options in (("parallel", 4), ("nonparallel", 2)):
        write_rows(folder / f"global_piqa_{name}" / "eng_latn.jsonl", global_piqa(items, 50 + options, options))
    write_reading(folder / "reading" / "reading_data.csv", 8 * items)


def pairs(items: int, seed: int) -> Rows:
    """Minimal pairs, the last of which is one sentence twice but for its capital."""
    good = sentences(items, seed)
    rows = [{"sentence_good": each, "sentence_bad": reversed_words(each)} for each in good]
    rows[-1]["sentence_bad"] = good[-1].lower()
    return rows


def ewok(items: int, seed: int, domain: str) -> Rows:
    """Two contexts and two targets each."""
    text = iter(sentences(4 * items, seed))
    names = ("Context1", "Context2", "Target1", "Target2")
    about = {"Domain": domain, "ContextType": "direct", "ContextDiff": "negation", "TargetDiff": "swap"}
    return [about | {name: next(text) for name in names} for _ in range(items)]


def entity_tracking(items: int, seed: int, numops: int) -> Rows:
    """So many items of 0, 1, ... operations; every fifth has an option that the pipeline leaves out."""
    draw, text = random.Random(seed), iter(sentences(items * numops, seed))
    rows = []
    for steps in range(numops):
        for number in range(items):
            prefix = f"{next(text)} Box {steps} has "
            words = [f"the {each.split()[0].lower()}." for each in sentences(5, draw.randrange(10**6))]
            words[-1] = "nothing." if number % 5 == 4 else words[-1]
            rows.append({"input_prefix": prefix, "options": words, "numops": steps})
    return rows


def comps(items: int, seed: int) -> Rows:
    """One property after two prefixes."""
    text = iter(sentences(3 * items, seed))
    names = ("prefix_acceptable", "prefix_unacceptable", "property_phrase")
    return [{name: next(text).rstrip(".") for name in names} for _ in range(items)]


def global_piqa(items: int, seed: int, options: int) -> Rows:
    """A prompt and so many solutions."""
    draw, text = random.Random(seed), iter(sentences(items * (1 + options), seed))
    return [
        {"prompt": next(text), "label": draw.randrange(options), "example_id": f"eng-{seed}-{number}"}
        | {f"solution{i}": next(text) for i in range(options)}
        for number in range(items)
    ]


def write_reading(path: Path, words: int) -> None:
    """Words in their contexts, and times that depend on them; the first of a sentence has nothing before it."""
    import pandas

    draw = np.random.Generator(np.random.Philox(60))
    rows: Rows = []
    for text in sentences(words, 60):
        parts = text.split()
        for at, word in enumerate(parts[:8]):
            before = {"prev_item": " ".join(parts[: at - 1]) or "Ba", "prev_word": parts[at - 1]} if at else {}
            length = {"length": len(word), "context_length": at, "prev_length": len(parts[at - 1]) if at else None}
            common = {"Subtlex_log10": float(draw.normal(3, 1))}
            time = 200 + 9 * len(word) - 12 * common["Subtlex_log10"] + 3 * at
            told = {name: float(time + draw.normal(0, 20)) for name in MEASURES}
            rows.append({"item": " ".join(parts[:at]) or None, "word": word, **before, **length, **common, **told})
    for number in range(5, words, 11):
        rows[number][MEASURES[number % len(MEASURES)]] = None
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ("item", "word", "prev_item", "prev_word", *MEASURES, *rules.PREDICTORS, "prev_length")
    pandas.DataFrame(rows[:words], columns=pandas.Index(columns)).to_csv(path, index=False)


def write_acquisition(folder: Path, words: int) -> None:
    """Frequent words in two or three contexts, and how many children say them; one has no children, one a letter."""
    text = sentences(200)
    counts = Counter(word for each in text for word in each.lower().rstrip(".").split() if len(word) > 2)
    found = [word for word, _ in counts.most_common(words)]
    contexts = {
        word: [{"context": " ".join(each.split()[:4])} for each in text[3 * number : 3 * number + 2 + number % 2]]
        for number, word in enumerate(found)
    }
    ages = {word: 18 + 9 * number / words for number, word in enumerate(found[1:])}
    write_ages(folder, contexts | {"a": [{"context": "Ba"}]}, ages)


def write_ages(folder: Path, contexts: dict[str, Any], ages: dict[str, float]) -> None:
    """The two files of the task. ages: months at which half of the children say a word."""
    (folder / "aoa").mkdir(parents=True, exist_ok=True)
    (folder / rules.CONTEXTS).write_text(json.dumps(contexts), "utf-8")
    lines = [",".join(("word", *map(str, rules.AGES)))]
    for word, middle in ages.items():
        shares = [0.97 / (1 + np.exp(-0.35 * (age - middle))) + 0.01 * np.sin(age * middle) for age in rules.AGES]
        lines.append(",".join((word, *(f"{share:.6f}" for share in shares))))
    (folder / rules.CHILDREN).write_text("\n".join(lines) + "\n", "utf-8")


def byte_level(text: Sequence[str], size: int) -> Vocabulary:
    """A tokenizer as RoBERTa's, trained on the text: pieces of bytes, a word's space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=list(special.values()), initial_alphabet=alphabet, show_progress=False
        ),
    )
    ends = [(special[role], made.token_to_id(special[role])) for role in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return Vocabulary.check(made, special, "byte-level")


def checkpoints(bundle: Path, start: Any) -> Iterator[tuple[str, Any]]:
    """(name, one model that changes) on the way from `start` to a bundle's, most of it from 5 to 30 million words."""
    from transformers import AutoModelForMaskedLM

    model: Any = AutoModelForMaskedLM.from_pretrained(bundle)
    end = {name: value.clone() for name, value in model.state_dict().items()}
    begin = start.state_dict()
    for name, words in zip(rules.CHECKPOINTS, rules.WORDS, strict=True):
        share = 1 / (1 + np.exp(-4 * (np.log10(words) - 7)))
        with torch.no_grad():
            for key, value in model.state_dict().items():
                value.copy_(torch.lerp(begin[key], end[key], float(share)))
        yield name, model


def write_series(bundle: Path, start: Any, folder: Path) -> Path:
    """A folder with a bundle of each of these checkpoints."""
    for name, model in checkpoints(bundle, start):
        model.save_pretrained(folder / name)
        for path in bundle.glob("tokenizer*"):
            shutil.copy(path, folder / name / path.name)
    return folder
