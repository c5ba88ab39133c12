"""Every kind of bad input, as a user may write it: what was wrong, and the words that the refusal must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.trainables.texts import write_documents

FILE = "sweep.yaml"
GOOD = """\
name: sweep
trainable: trainables.mlm:train
config:
  steps: 100
  masking: {mask_warmup: 0.3, update_every: 2}
  model: {hidden: 32, layers: 1, heads: 2, intermediate: 64, max_positions: 16}
space:
  masking.shares: {simplex: {random: 0.5, token: 0, trigram: 0}}
  masking.ema_decay: {uniform: [0, 1]}
arms:
  baseline:
    masking.shares: {random: 1, token: 0, trigram: 0}
search: {method: tpe, trials: 4}
seeds: {search: [1], confirm: [2, 3]}
resources: {workers: 0}
data: {corpus: "files:corpus.txt", tokenizer: "train:300", block: 16}
profile: laptop
profiles:
  laptop: {config: {batch_size: 8}}
"""


@dataclass(frozen=True)
class Row:
    """One mistake. change: a piece of GOOD and what stands there instead; None: `text` is the whole spec.

    told: words that the one line must hold, the key and the nearest legal word among them. arguments: after the
    spec's name. files: others that lie beside it, as bytes.
    """

    what: str
    told: tuple[str, ...]
    change: tuple[str, str] | None = None
    text: str | bytes = GOOD
    arguments: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    spec: str = FILE

    def write(self, folder: Path) -> list[str]:
        """The spec and what belongs to it in a folder; the command's arguments."""
        text = self.text.encode() if isinstance(self.text, str) else self.text
        if self.change:
            old, new = self.change
            assert text.count(old.encode()) == 1, old
            text = text.replace(old.encode(), new.encode())
        (folder / FILE).write_bytes(text)
        write_documents(folder / "corpus.txt", 60)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return [self.spec, *self.arguments]


def _number(text: str) -> Row:
    told = (FILE, "config.optimiser.lr", f"'{text}'", "is not a number", "5e-4")
    return Row(f"{text} where a number is meant", told, ("  steps: 100", f"  steps: 100\n  optimiser: {{lr: {text}}}"))


def _whole(text: str) -> Row:
    told = (FILE, "search.trials", f"'{text}'", "is not a number")
    return Row(f"{text} where a whole number is meant", told, ("trials: 4", f"trials: {text}"))


def _corpus(what: str, told: tuple[str, ...], data: bytes, name: str = "other.txt") -> Row:
    return Row(what, told, ("files:corpus.txt", f"files:{name}"), files={name: data})


ROWS = [
    Row("unknown key", (FILE, "sheduler", "did you mean 'scheduler'"), ("search: {", "sheduler: none\nsearch: {")),
    Row("unknown key of a section", (FILE, "resources.worker", "'resources.workers'"), ("{workers: 0}", "{worker: 0}")),
    Row("misspelt setting", (FILE, "config.masking.mask_warmpu", "mask_warmup'"), ("mask_warmup", "mask_warmpu")),
    Row("misspelt path of the space", (FILE, "masking.ema_decya", "'masking.ema_decay'"), ("ema_decay", "ema_decya")),
    Row(
        "misspelt path of an arm",
        (FILE, "arms.baseline", "masking.share", "'masking.shares'"),
        ("    masking.shares: {random: 1", "    masking.share: {random: 1"),
    ),
    Row(
        "misspelt part of a simplex",
        (FILE, "masking.shares", "trigramm", "trigram"),
        ("0, trigram: 0}}", "0, trigramm: 0}}"),
    ),
    Row("unknown kind of domain", (FILE, "masking.ema_decay", "unifrom", "'uniform'"), ("{uniform", "{unifrom")),
    Row("bounds the wrong way round", (FILE, "masking.ema_decay", "wrong way round", "[0, 1]"), ("[0, 1]", "[1, 0]")),
    Row(
        "simplex with one part",
        (FILE, "masking.shares", "at least two parts"),
        ("{random: 0.5, token: 0, trigram: 0}", "{random: 0.5}"),
    ),
    Row("minima of a simplex above 1", (FILE, "masking.shares", "sum to less than 1"), ("random: 0.5", "random: 1.0")),
    Row(
        "value that the Config refuses",
        (FILE, "config.masking.mask_warmup", "1.5", "less than 1"),
        ("mask_warmup: 0.3", "mask_warmup: 1.5"),
    ),
    Row(
        "bound that the Config refuses",
        (FILE, "space.masking.ema_decay", "less than or equal to 1"),
        ("[0, 1]", "[0, 2]"),
    ),
    Row("arm outside the space", (FILE, "arms.baseline.masking.shares", "sum to 1"), ("{random: 1,", "{random: 0.9,")),
    Row("method that there is not", (FILE, "search.method", "'tpee'", "'tpe'"), ("method: tpe", "method: tpee")),
    Row(
        "seeds that overlap",
        (FILE, "seeds.confirm", "seed 1 is also in seeds.search"),
        ("confirm: [2, 3]", "confirm: [2, 1]"),
    ),
    Row("seed twice", (FILE, "seeds.confirm", "duplicate seed 2"), ("confirm: [2, 3]", "confirm: [2, 2]")),
    Row("not YAML", (FILE, "cannot be read as a spec", "line 2"), text="name: [toy\n"),
    Row("not text", (FILE, "is not UTF-8"), text=b"name: \xff\xfe"),
    Row("empty", (FILE, "is empty", "name:"), text=""),
    Row("a list", (FILE, "list", "not a mapping"), text="- name: toy\n"),
    Row("a single value", (FILE, "single value", "not a mapping"), text="toy\n"),
    Row("duplicate keys", (FILE, "duplicate key 'steps'", "line 5"), ("  steps: 100", "  steps: 100\n  steps: 200")),
    *map(_number, ("no", "off", "1:30", "0x10")),
    *map(_whole, ("017", "1_000")),
    Row(
        "fraction where a whole number is meant",
        (FILE, "search.trials", "4.5", "whole number"),
        ("trials: 4", "trials: 4.5"),
    ),
    Row("no trials", (FILE, "search.trials", "0", "greater than 0"), ("trials: 4", "trials: 0")),
    Row("unknown profile", ("--profile latpop", "did you mean 'laptop'"), arguments=("--profile", "latpop")),
    Row(
        "unknown profile in the file",
        (FILE, "profile", "did you mean 'laptop'"),
        ("profile: laptop\np", "profile: latpop\np"),
    ),
    Row("misspelt --set", ("--set config.stpes=5", "'steps'"), arguments=("--set", "config.stpes=5")),
    Row("--set without a value", ("--set config.steps", "PATH=VALUE"), arguments=("--set", "config.steps")),
    Row("misspelt option", ("--reusme", "--help"), arguments=("--reusme",)),
    Row("no such spec", ("sweeep.yaml", "did you mean 'sweep.yaml'"), spec="sweeep.yaml"),
    Row(
        "too few refreshes",
        (FILE, "masking.update_every", "largest legal value is 14"),
        ("update_every: 2}", "update_every: 15}"),
    ),
    Row(
        "rung before the warm-up has worn off",
        (FILE, "scheduler.halving.first", "40", "45"),
        ("search: {", "scheduler: {halving: {first: 40}}\nsearch: {"),
    ),
    Row("misspelt scheduler", (FILE, "scheduler", "'halving'"), ("search: {", "scheduler: havling\nsearch: {")),
    Row(
        "scheduler under two objectives",
        (FILE, "scheduler", "needs a single objective, and there are 2"),
        ("search: {", "objective: [val/loss, val/loss_mask]\nscheduler: median\nsearch: {"),
    ),
    Row(
        "objective that no trial gives",
        (FILE, "objective", "'zorro/accuracy'", "evaluate.tasks"),
        ("search: {", "objective: [val/loss, zorro/accuracy]\nsearch: {"),
    ),
    Row(
        "trainable that there is not",
        (FILE, "trainable", "trainables.mml"),
        ("trainables.mlm:train", "trainables.mml:train"),
    ),
    Row(
        "more workers than there is room for",
        (FILE, "resources", "set resources.workers to"),
        ("{workers: 0}", "{workers: 999}"),
    ),
    Row("more CPUs than there are", (FILE, "resources", "cpus_per_worker"), ("{workers: 0}", "{cpus_per_worker: 999}")),
    _corpus("corpus without text", (FILE, "data.corpus", "other.txt", "has no text"), b"\n \n"),
    _corpus(
        "corpus of less than one block",
        (FILE, "data.corpus", "files:other.txt", "less than one block of 16"),
        b"one two three\n",
    ),
    _corpus(
        "corpus that is not UTF-8",
        (FILE, "data.corpus", "other.txt", "is not UTF-8 at byte 3", "iconv"),
        b"caf\xe9 \n" * 100,
    ),
    _corpus(
        "corpus line that is no record",
        (FILE, "data.corpus", "other.jsonl, line 1", "is not JSON"),
        b"{text\n",
        "other.jsonl",
    ),
    Row(
        "corpus that is not there",
        (FILE, "data.corpus", "crpus.txt", "matches no file"),
        ("files:corpus", "files:crpus"),
    ),
    Row(
        "corpus of an unknown kind",
        (FILE, "data.corpus", "'file:corpus.txt'", "files:GLOB"),
        ("files:corpus", "file:corpus"),
    ),
    Row(
        "folder that cannot be written",
        ("--storage", "is not a folder that can be written to"),
        arguments=("--storage", "corpus.txt"),
    ),
    Row(
        "warm start from no run",
        (FILE, "search.from: nowhere", "has no such run"),
        ("trials: 4}", "trials: 4, from: [nowhere]}"),
    ),
    Row(
        "warm start of a method that learns nothing",
        (FILE, "search.from", "random does not learn", "use tpe or gp"),
        ("{method: tpe, trials: 4}", "{method: random, trials: 4, from: [nowhere]}"),
    ),
    Row(
        "condition on a number",
        (FILE, "conditions.masking.shares.masking.ema_decay", "names a choice"),
        ("search: {", "conditions: {masking.shares: {masking.ema_decay: 1}}\nsearch: {"),
    ),
    Row(
        "limit of nothing",
        (FILE, "limits.failures", "greater than 0"),
        ("search: {", "limits: {failures: 0}\nsearch: {"),
    ),
    Row("folder that holds no run", ("--resume", "not a run folder"), arguments=("--resume", "nowhere")),
]
