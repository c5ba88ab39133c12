"""What a stranger may have done to a run folder, by kind; each takes a case and a draw, and changes the folder."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

MARKER = "HOSTILE"  # in whatever a stranger wrote
EVIL = """\
import os, sys
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ran-{name}"), "w").write("{name}")
print("HOSTILE code of {name} runs", file=sys.stderr)
def train(config, context): pass
class Config: pass
"""
STEERS = [
    "\x1b[2J\x1b]0;HOSTILE\x07",
    "a\x9b31mHOSTILE",
    "\u202eELITSOH",
    "HOSTILE\r\x08\x7f",
    "HOSTILE\u2028\u2066",
    "HOSTILE\x00",
]
MARKUP = [
    "<script>HOSTILE(1)</script>",
    "</script><script>HOSTILE(1)</script>",
    "<img src=x onerror=HOSTILE(1)>",
    '"><svg onload=HOSTILE(1)>',
    "' onmouseover=HOSTILE(1) x='",
    "=cmd|'/C HOSTILE'!A0",
    "+HOSTILE()",
    "@SUM(HOSTILE)",
    "-2+HOSTILE",
    "\\input{HOSTILE}",
    "[HOSTILE](javascript:HOSTILE)",
    "HOSTILE\nerror: HOSTILE",
    "`HOSTILE`|$(HOSTILE)",
    "HOSTILE" * 5000,
]
CLIMBS = [
    *("../../outside/victim", "../../../outside/victim", "../../../outside/victim/.ssh", "..", ".", "", "t/../../.."),
    *("/", "a\0b", "../other-00000000", "t0001/../../../../outside/victim", "..\\..\\victim", "-rf", "x" * 300),
]
JUNK: list[Any] = [
    *(None, True, 0, -1, 2**70, 1e308, -1e308, 0.0, "", "x", "t0001", [], [1, "a", None], {}, {"a": {"b": 1}}),
    *([[[]]], {"": None}),
]


@dataclass
class Case:
    """One received folder. outside: the private file and the victim's folder; neither is to be touched.

    cwd: where the commands are called. form: "as it is", "made anew" (the journal's chain) or "trusted". fresh: Python
    is started anew for them, with what lies in cwd on its path. bundle: what is evaluated.
    """

    run_dir: Path
    outside: Path
    cwd: Path
    form: str
    fresh: bool = False
    bundle: Path | None = None
    told: list[str] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.run_dir / "journal.jsonl"

    @property
    def spec(self) -> Path:
        return self.run_dir / "spec.yaml"

    @property
    def private(self) -> Path:
        return self.outside / "private.txt"

    @property
    def victim(self) -> Path:
        return self.outside / "victim"

    def lines(self) -> list[bytes]:
        return self.journal.read_bytes().splitlines()

    def events(self) -> list[Any]:
        return [json.loads(line) for line in self.lines()]

    def write(self, lines: list[bytes], end: bytes = b"\n") -> None:
        """The journal; with its chain made anew where this case has that form."""
        made = rechained(lines) if self.form == "made anew" else None
        self.journal.write_bytes(b"\n".join(lines) + end if made is None else made)

    def write_events(self, events: list[Any]) -> None:
        self.write([json.dumps(event).encode() for event in events])

    def find_bundle(self, draw: random.Random) -> Path:
        """One of the run's bundles, which is what is evaluated; an empty folder where it has none."""
        found = sorted(path.parent for path in self.run_dir.rglob("bundle*/**/config.json"))
        self.bundle = draw.choice(found) if found else self.run_dir
        return self.bundle


def chains() -> bool:
    """Whether this version's journal has a chain that can be made anew."""
    from sweeper.journal import journal

    return hasattr(journal, "_chained")


def rechained(lines: list[bytes]) -> bytes | None:
    """The file with the chained digests that a stranger with this program would give it; None where that cannot be."""
    from tests import chain

    try:
        return chain.rechained(lines)
    except (AttributeError, ValueError, TypeError, IndexError):
        return None


Damage = Callable[[Case, random.Random], None]


@dataclass(frozen=True)
class Kind:
    """A kind of damage. what: the part of the folder. seeds: names of those that it is done to."""

    what: str
    do: Damage
    seeds: tuple[str, ...]


KINDS: dict[str, Kind] = {}
_ANY = ("toy", "toy", "unfinished", "mlm", "foreign")
_TRAINED = ("mlm",)


def _kind(what: str, name: str, seeds: tuple[str, ...] = _ANY) -> Callable[[Damage], Damage]:
    def add(do: Damage) -> Damage:
        KINDS[f"{what}: {name}"] = Kind(what, do, seeds)
        return do

    return add


@_kind("untouched", "as it was sent")
def _untouched(case: Case, draw: random.Random) -> None:
    case.find_bundle(draw)


# The journal.


@_kind("journal", "a line lost")
def _lost(case: Case, draw: random.Random) -> None:
    lines = case.lines()
    del lines[draw.randrange(len(lines))]
    case.write(lines)


@_kind("journal", "a line doubled")
def _doubled(case: Case, draw: random.Random) -> None:
    lines = case.lines()
    at = draw.randrange(len(lines))
    lines.insert(draw.choice((at, len(lines))), lines[at])
    case.write(lines)


@_kind("journal", "lines swapped")
def _swapped(case: Case, draw: random.Random) -> None:
    lines = case.lines()
    a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    case.write(lines)


@_kind("journal", "a bit flipped")
def _flipped(case: Case, draw: random.Random) -> None:
    _flip(case.journal, draw, draw.choice((1, 1, 3)))


@_kind("journal", "cut off")
def _cut(case: Case, draw: random.Random) -> None:
    data = case.journal.read_bytes()
    case.journal.write_bytes(data[: draw.randrange(len(data))] + draw.choice((b"", b"\n", b"\0" * 100, b"\xff\xfe\n")))


@_kind("journal", "a digit changed")
def _digit(case: Case, draw: random.Random) -> None:
    events = case.events()
    _change(events, draw, lambda value: value + draw.choice((1, -1, 0.1, 1000)), int | float)
    case.write_events(events)


@_kind("journal", "a value of another kind")
def _other(case: Case, draw: random.Random) -> None:
    events = case.events()
    for _ in range(draw.randint(1, 3)):
        _change(events, draw, lambda _: copy.deepcopy(draw.choice(JUNK)), object)
    case.write_events(events)


@_kind("journal", "numbers that are none")
def _extreme(case: Case, draw: random.Random) -> None:
    lines, mark = case.lines(), "@@HERE@@"
    at = draw.randrange(len(lines))
    event = json.loads(lines[at])
    _change([event], draw, lambda _: mark, int | float)
    extremes = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5000, "-1", "1e308", "-0.0", "1e-400"]
    lines[at] = json.dumps(event).replace(f'"{mark}"', draw.choice(extremes)).encode()
    case.write(lines)


@_kind("journal", "deep nesting")
def _deep(case: Case, draw: random.Random) -> None:
    lines, mark = case.lines(), "@@HERE@@"
    at = draw.randrange(len(lines))
    event = json.loads(lines[at])
    _change([event], draw, lambda _: mark, object)
    depth = draw.choice((50, 500, 3000, 100_000))
    deep = draw.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
    lines[at] = json.dumps(event).replace(f'"{mark}"', deep).encode()
    case.write(lines)


@_kind("journal", "unknown events")
def _unknown(case: Case, draw: random.Random) -> None:
    lines = case.lines()
    strange = draw.choice([
        b"{}", b"[]", b"null", b"1", b'"x"', b"", b"   ", b'{"event": null}', b'{"event": []}', b'{"event": "exec"}',
        b'{"event": "__class__"}', b'{"event": "session"}', b'{"event": "\x1b[2J"}', b"{" * 100,
        b"\xff\xfe", b"\0" * 40,
    ])  # fmt: skip
    lines.insert(draw.randrange(len(lines) + 1), strange)
    case.write(lines)


@_kind("journal", "fields unknown or missing")
def _fields(case: Case, draw: random.Random) -> None:
    events = case.events()
    event = draw.choice(events)
    if draw.random() < 0.5:
        event[draw.choice(["x", "__init__", "self", "\x1b[2J", "trial", "time", "a" * 10_000])] = draw.choice(JUNK)
    else:
        del event[draw.choice(sorted(event))]
    case.write_events(events)


@_kind("journal", "text that steers")
def _steering(case: Case, draw: random.Random) -> None:
    case.write_events(_everywhere(case.events(), draw, STEERS))


@_kind("journal", "text that is code elsewhere")
def _markup(case: Case, draw: random.Random) -> None:
    case.write_events(_everywhere(case.events(), draw, MARKUP))


@_kind("journal", "free texts that steer or are code")
def _free(case: Case, draw: random.Random) -> None:
    """Only what may be any text, in an otherwise sound record."""
    events = case.events()
    arms = {event.get("arm") for event in events if event.get("arm")}
    for event in events:
        for name in ("command", "reason", "git_commit", "node"):
            if isinstance(event.get(name), str) or (name == "reason" and event.get("event") == "end"):
                event[name] = draw.choice([*STEERS[:5], *MARKUP])
        for holder in (event.get("versions"), event.get("machine"), event.get("facts")):
            if isinstance(holder, dict):
                holder |= {draw.choice(["x", "torch", *STEERS, *MARKUP]): draw.choice([*STEERS, *MARKUP])}
        if isinstance(event.get("facts"), dict):
            event["facts"] |= {"notes": [draw.choice(STEERS)], "warnings": [draw.choice(MARKUP)]}
    if arms and draw.random() < 0.5:
        events = _replaced(events, draw.choice(sorted(arms)), draw.choice([*STEERS, *MARKUP]))
    case.write_events(events)


@_kind("journal", "metrics with strange names")
def _metrics(case: Case, draw: random.Random) -> None:
    events = case.events()
    names = [
        *("audit/a/b/c", "audit/shares", "audit/shares/random/x", "audit/", "audit", "/", "audit//", "val/loss/x"),
        *(f"audit/{text}/x" for text in MARKUP[:4]),
        *(f"{prefix}{text}" for text in (*MARKUP, *STEERS) for prefix in ("audit/", "val/", "", "audit/decile/")),
    ]
    for event in events:
        if event.get("event") == "report":
            for name in draw.sample(names, 2):
                event["metrics"][name] = draw.choice((0.5, 1, 1e308))
    case.write_events(events)


@_kind("journal", "ids that climb")
def _climbing(case: Case, draw: random.Random) -> None:
    events = case.events()
    old = draw.choice([event["trial"] for event in events if event.get("event") == "end"] or ["t0001"])
    new = draw.choice([*CLIMBS, str(case.victim), *STEERS[:2], *MARKUP[:4]])
    case.write_events(_replaced(events, old, new))


@_kind("journal", "the best one's id climbs")
def _best_climbs(case: Case, draw: random.Random) -> None:
    """With a bundle for it, as an end that names another trial's checkpoint has."""
    events = case.events()
    told = {event["trial"]: event["metrics"] for event in events if event.get("event") == "report"}
    search = [event for event in events if event.get("event") == "ask" and event.get("stage") == "search"]
    best = min((one["trial"] for one in search), key=lambda id: told.get(id, {}).get("val/loss", 1e9))
    case.write_events(_replaced(events, best, draw.choice([*CLIMBS[:3], str(case.victim), "../trials", ".."])))


@_kind("journal", "checkpoints that lie elsewhere")
def _elsewhere(case: Case, draw: random.Random) -> None:
    events = case.events()
    (case.victim / "bundle").mkdir()
    shutil.copy(case.private, case.victim / "bundle" / "model.txt")
    for event in events:
        if event.get("event") in ("end", "report"):
            event["checkpoint"] = draw.choice(
                [str(case.victim), "../../outside/victim", "/", ".", "a\0b", 1, ["x"], {}]
            )
    case.write_events(events)


@_kind("journal", "a verdict that nobody reached")
def _verdict(case: Case, draw: random.Random) -> None:
    events = case.events()
    for event in events:
        if event.get("event") in ("verdict", "family"):
            for _ in range(draw.randint(1, 4)):
                _change([event], draw, lambda _: draw.choice([*JUNK, *MARKUP[:4], "confirmed", "published"]), object)
    case.write_events(events)


@_kind("journal", "long texts")
def _long(case: Case, draw: random.Random) -> None:
    events = case.events()
    _change(events, draw, lambda _: "x\n" * draw.choice((10_000, 3_000_000)), str)
    case.write_events(events)


@_kind("journal", "something else in its place")
def _replaced_journal(case: Case, draw: random.Random) -> None:
    _instead(case, case.journal, draw)


# The spec.


@_kind("spec", "a value changed")
def _value(case: Case, draw: random.Random) -> None:
    tree = _tree(case)
    for _ in range(draw.randint(1, 3)):
        _change([tree], draw, lambda _: copy.deepcopy(draw.choice(JUNK)), object)
    _respecified(case, tree)


@_kind("spec", "a number changed")
def _number(case: Case, draw: random.Random) -> None:
    tree = _tree(case)
    _change([tree], draw, lambda value: value * draw.choice((2, 10, 10**6)) + draw.choice((0, 1)), int | float)
    _respecified(case, tree)


@_kind("spec", "its trainable lies in the folder")
def _evil(case: Case, draw: random.Random) -> None:
    tree, name = _tree(case), draw.choice(["evil", "trials.evil", "toy", "sitecustomize", "evil_package"])
    tree["trainable"] = f"{name}:train"
    _plant(case.run_dir.joinpath(*name.split(".")).with_suffix(".py"), name)
    _respecified(case, tree)
    case.cwd = draw.choice([case.run_dir, case.run_dir, case.cwd])
    case.fresh = draw.random() < 0.05


@_kind("spec", "its trainable is something of Python's")
def _stdlib(case: Case, draw: random.Random) -> None:
    tree = _tree(case)
    tree["trainable"] = draw.choice([
        "os:system", "this:x", "antigravity:train", "__main__:main", "trainables.toy:Config", "builtins:exec", "x", ":",
        "a:b:c", "sweeper.run:main", "../evil:train", "/tmp/evil:train", "evil.train", "os.path:join", "\x1b[2J:x",
        "tests.drills.hostile:run", "subprocess:run", "idlelib.idle:x", "a\nb:c",
    ])  # fmt: skip
    _respecified(case, tree)


@_kind("spec", "a bomb")
def _bomb(case: Case, draw: random.Random) -> None:
    case.spec.write_text(_bombs(draw) if draw.random() < 0.8 else "question: " + "x" * 3_000_000, "utf-8")


@_kind("spec", "text that steers")
def _spec_steers(case: Case, draw: random.Random) -> None:
    _respecified(case, _everywhere(_tree(case), draw, [*STEERS, *MARKUP]))


@_kind("spec", "another store")
def _store(case: Case, draw: random.Random) -> None:
    tree = _tree(case)
    uri = draw.choice([
        f"sqlite:///{case.victim}/x.db", f"sqlite:///{case.private}", f"file://{case.victim}", str(case.victim),
        "http://user:HOSTILE@127.0.0.1:9", "postgresql://x:HOSTILE@127.0.0.1:9/x", "\x1b[2J", "x://", "databricks",
        "sqlite:///../../outside/victim/y.db", "http://127.0.0.1:9/\x1b[2J",
    ])  # fmt: skip
    tree["tracking"] = {"uri": uri}
    _respecified(case, tree)


@_kind("spec", "bytes changed")
def _spec_bytes(case: Case, draw: random.Random) -> None:
    _flip(case.spec, draw, draw.choice((1, 1, 5)))


@_kind("spec", "something else in its place")
def _replaced_spec(case: Case, draw: random.Random) -> None:
    _instead(case, case.spec, draw)


# Checkpoints.


@_kind("checkpoints", "a manifest that names files elsewhere", ("mlm", "toy", "unfinished"))
def _manifest(case: Case, draw: random.Random) -> None:
    for path in manifests(case):
        found = json.loads(path.read_text("utf-8"))
        name = draw.choice(["../../../../../../outside/private.txt", str(case.private), "a\0b", "x" * 300, "\x1b[2J"])
        found["sha256"][name] = sha256(case.private.read_bytes()).hexdigest()
        path.write_text(json.dumps(found), "utf-8")


@_kind("checkpoints", "manifests of other kinds", ("mlm", "toy", "unfinished"))
def _manifest_kinds(case: Case, draw: random.Random) -> None:
    for path in manifests(case):
        found = [json.loads(path.read_text("utf-8"))]
        _change(found, draw, lambda _: copy.deepcopy(draw.choice([*JUNK, *STEERS])), object)
        path.write_text(draw.choice([json.dumps(found[0]), "[" * 100_000, "", "1"]), "utf-8")


@_kind("checkpoints", "a link in one", ("mlm", "unfinished", "toy"))
def _linked_checkpoint(case: Case, draw: random.Random) -> None:
    for path in manifests(case):
        kind = draw.randrange(4)
        if kind == 0:
            (path.parent / "link").symlink_to(case.private)
        elif kind == 1:
            (path.parent / "folder").symlink_to(case.victim)
        elif kind == 2:
            _swap(path.parent / "history.jsonl", case.private)
        else:
            os.mkfifo(path.parent / "pipe")


@_kind("checkpoints", "folders that are links", ("mlm", "unfinished", "toy"))
def _linked_folders(case: Case, draw: random.Random) -> None:
    path = draw.choice(manifests(case) or [case.run_dir / "trials" / "t0001" / "checkpoints" / "s" / "m"])
    for _ in range(draw.randint(1, 4)):
        path = path.parent
    if path != case.run_dir:
        _swap(path, draw.choice([case.victim, case.outside, Path("/dev")]))


@_kind("checkpoints", "history damaged", ("mlm", "unfinished", "toy"))
def _history(case: Case, draw: random.Random) -> None:
    for path in sorted(case.run_dir.rglob("history.jsonl")):
        path.write_text(
            draw.choice(["", "[" * 100_000, "{}\n", '{"step": NaN}\n', "\n\n", '{"step": "x"}', "\x1b[2J"]), "utf-8"
        )
        _resealed(path.parent)


@_kind("checkpoints", "tensors damaged", _TRAINED)
def _tensors(case: Case, draw: random.Random) -> None:
    for path in sorted(case.run_dir.rglob("*.safetensors")):
        _tensor(path, draw)
    case.find_bundle(draw)


@_kind("checkpoints", "strange names", ("mlm", "unfinished", "toy"))
def _names(case: Case, draw: random.Random) -> None:
    folder = draw.choice(manifests(case) or [case.run_dir / "trials/t0001/checkpoints/x/y"]).parent.parent
    for name in ("step-x", "step-99999999", "step-\x1b[2J", "step--1", f"step-{'9' * 60}", "step-00000020 "):
        made = folder / name
        made.mkdir(parents=True, exist_ok=True)
        (made / "checkpoint.json").write_text("{}", "utf-8")
    (folder / "\x1b[2J").mkdir()


# The bundle.


@_kind("bundle", "a link to a private file", ("mlm", "toy"))
def _linked_bundle(case: Case, draw: random.Random) -> None:
    """In all of them: the checkpoints', which are copied and sent, and the one that was kept."""
    bundles = [path for path in case.run_dir.rglob("bundle") if path.is_dir()] + list(case.run_dir.glob("bundles/*"))
    name = draw.choice(["notes.txt", "analysis", "model.safetensors", "tokenizer.json", "metadata.json", "config.json"])
    for bundle in bundles:
        _swap(bundle / name, case.victim if name == "analysis" else case.private)
        if bundle.parent.name.startswith("step-"):
            _resealed(bundle.parent)
    case.bundle = draw.choice(bundles)


@_kind("bundle", "its folder is a link", ("mlm", "toy"))
def _bundle_folder(case: Case, draw: random.Random) -> None:
    bundles = [path for path in case.run_dir.rglob("bundle") if path.is_dir()] + list(case.run_dir.glob("bundles/*"))
    for bundle in bundles:
        _swap(bundle, case.victim)
    case.bundle = draw.choice(bundles)


@_kind("bundle", "config.json changed", _TRAINED)
def _config(case: Case, draw: random.Random) -> None:
    path = case.find_bundle(draw) / "config.json"
    tree = json.loads(path.read_text("utf-8"))
    numbers = ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads")
    if draw.random() < 0.4:
        tree[draw.choice([*numbers, "max_position_embeddings"])] = draw.choice(
            [10**7, 10**12, -1, 0, "x", 1.5, None, []]
        )
    elif draw.random() < 0.3:
        _plant(path.parent / "modeling_evil.py", "modeling_evil")
        tree |= {"auto_map": {"AutoModelForMaskedLM": "modeling_evil.train", "AutoConfig": "modeling_evil.Config"}}
        tree |= draw.choice([{"model_type": "evil"}, {}])
    elif draw.random() < 0.3:
        tree |= {
            "model_type": draw.choice(["gpt2", "timm_wrapper", "rag", "", "bert\x1b[2J", 7]),
            "architectures": ["X"],
        }
    else:
        for _ in range(draw.randint(1, 3)):
            _change([tree], draw, lambda _: copy.deepcopy(draw.choice([*JUNK, *STEERS[:2]])), object)
    path.write_text(json.dumps(tree), "utf-8")


@_kind("bundle", "tokenizer.json changed", _TRAINED)
def _tokenizer(case: Case, draw: random.Random) -> None:
    path = case.find_bundle(draw) / draw.choice(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"])
    if draw.random() < 0.4:
        _flip(path, draw, 3)
        return
    tree = json.loads(path.read_text("utf-8"))
    for _ in range(draw.randint(1, 4)):
        _change([tree], draw, lambda _: copy.deepcopy(draw.choice([*JUNK, *STEERS])), object)
    if draw.random() < 0.2:
        _plant(path.parent / "tokenization_evil.py", "tokenization_evil")
        tree["auto_map"] = {"AutoTokenizer": ["tokenization_evil.train", None]}
    path.write_text(json.dumps(tree), "utf-8")


@_kind("bundle", "weights changed", _TRAINED)
def _weights(case: Case, draw: random.Random) -> None:
    bundle = case.find_bundle(draw)
    if draw.random() < 0.2:
        (bundle / "model.safetensors").unlink()
        (bundle / "pytorch_model.bin").write_bytes(pickle.dumps(_Pickled(str(case.run_dir / "ran-pickle"))))
        return
    _tensor(bundle / "model.safetensors", draw)


@_kind("bundle", "files of other kinds", _TRAINED)
def _bundle_files(case: Case, draw: random.Random) -> None:
    bundle = case.find_bundle(draw)
    name = draw.choice(sorted(path.name for path in bundle.iterdir() if path.is_file()))
    if name == "training_config.yaml" and draw.random() < 0.7:
        (bundle / name).write_text(_bombs(draw), "utf-8")
    else:
        _instead(case, bundle / name, draw)
    extra = {"adapter_config.json": '{"base_model_name_or_path": "../../x", "peft_type": "LORA"}'}
    extra |= {"chat_template.jinja": "{{ ''.__class__ }}", "generation_config.json": "[" * 5000}
    more = draw.choice([*extra, ""])
    if more:
        (bundle / more).write_text(extra[more], "utf-8")


@_kind("bundle", "metadata that says other things", ("mlm", "toy"))
def _metadata(case: Case, draw: random.Random) -> None:
    for path in sorted(case.run_dir.rglob("metadata.json")):
        tree = _everywhere(json.loads(path.read_text("utf-8")), draw, [*STEERS, *MARKUP])
        tree |= {"data_fingerprint": draw.choice([*STEERS, *MARKUP, 1, [], None]), "x_fingerprint": {"a": "\x1b[2J"}}
        broken = ["", "[" * 100_000, "[]", "1", '{"a_fingerprint": NaN}']
        path.write_text(draw.choice([json.dumps(tree), json.dumps(tree), *broken]), "utf-8")
        if path.parent.parent.name.startswith("step-"):
            _resealed(path.parent.parent)
    case.find_bundle(draw)


# Links, locks, names and what lies beside.


@_kind("links", "in the folder itself")
def _top_links(case: Case, draw: random.Random) -> None:
    names = [
        ".lock",
        "bundles",
        "trials",
        ".tune",
        "report.md",
        "report.html",
        "results.csv",
        "table.tex",
        "optuna.log",
    ]
    names += [".spec.yaml", "reproduced", "bundles/.t0001", ".tune/experiment", "bundles/t0001"]
    for name in draw.sample(names, draw.randint(1, 4)):
        target = draw.choice([case.victim, case.private, case.victim / "new.txt", Path("/dev/zero"), case.run_dir])
        with _unless_there():
            _swap(case.run_dir / name, target)


@_kind("links", "the folder is one")
def _run_link(case: Case, draw: random.Random) -> None:
    moved = case.run_dir.parent / "moved"
    case.run_dir.rename(moved)
    case.run_dir.symlink_to(moved)


@_kind("lock", "something else in its place")
def _lock(case: Case, draw: random.Random) -> None:
    _instead(case, case.run_dir / ".lock", draw)


@_kind("folders", "folders and pipes where files are written")
def _in_the_way(case: Case, draw: random.Random) -> None:
    for name in draw.sample(["report.md", "report.html", "results.csv", "table.tex", "optuna.log", ".spec.yaml"], 2):
        path = case.run_dir / name
        path.unlink(missing_ok=True)
        if draw.random() < 0.5:
            path.mkdir()
            (path / "kept.txt").write_text("x", "utf-8")
        else:
            os.mkfifo(path)


@_kind("folders", "files where folders are")
def _no_folder(case: Case, draw: random.Random) -> None:
    for name in draw.sample(["bundles", "trials", ".tune"], 2):
        path = case.run_dir / name
        shutil.rmtree(path, ignore_errors=True)
        path.write_text("x", "utf-8")


@_kind("folders", "parts are missing")
def _missing(case: Case, draw: random.Random) -> None:
    there = sorted(case.run_dir.iterdir())
    for path in draw.sample(there, min(2, len(there))):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@_kind("ids", "the folder has another name")
def _renamed(case: Case, draw: random.Random) -> None:
    names = [
        "plain",
        "it's",
        'a"b',
        "a\nerror: b",
        "\x1b[2J",
        "-rf",
        "a b",
        "ü字",
        "%2e%2e",
        "x" * 200,
        "a;b$(c)`d`",
        "#?",
    ]
    names += ["<script>HOSTILE(1)</script>".replace("/", "_"), "=cmd", "a\\b", "\u202eb", "~", "*"]
    new = case.run_dir.with_name(draw.choice(names))
    case.run_dir.rename(new)
    case.run_dir = new


@_kind("ids", "a copy beside the original")
def _copied(case: Case, draw: random.Random) -> None:
    new = case.run_dir.with_name(f"{case.run_dir.name}-{draw.choice(['2', 'copy'])}")
    shutil.copytree(case.run_dir, new)
    case.run_dir = new


@_kind("beside", "code and settings of programs")
def _code(case: Case, draw: random.Random) -> None:
    for name in ("sitecustomize", "conftest", "usercustomize", "__init__", "yaml", "torch", "ray", "setup"):
        _plant(case.run_dir / f"{name}.py", name)
    (case.run_dir / ".git").mkdir()
    run = f"[core]\n\trepositoryformatversion = 0\n\tfsmonitor = touch {case.run_dir}/ran-git\n"
    (case.run_dir / ".git" / "config").write_text(run, "utf-8")
    (case.run_dir / ".git" / "HEAD").write_text("ref: refs/heads/main\n", "utf-8")
    (case.run_dir / ".env").write_text(f"MLFLOW_TRACKING_URI=sqlite:///{case.victim}/x.db\n", "utf-8")
    case.cwd = draw.choice([case.run_dir, case.cwd])


@_kind("beside", "files with strange names")
def _strange_files(case: Case, draw: random.Random) -> None:
    folders = sorted(path for path in [case.run_dir, *case.run_dir.rglob("*")] if path.is_dir())
    for folder in draw.sample(folders, min(2, len(folders))):
        for name in ("\x1b[2J", "a\nb", "\u202eb", "=cmd", "<script>HOSTILE(1)<"):
            (folder / name).write_text("x", "utf-8")
        (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))).write_text("x", "utf-8")


@_kind("beside", "modules that shadow Python's, called from there", ("toy", "foreign"))
def _shadow(case: Case, draw: random.Random) -> None:
    """Python itself puts the current folder on the path of `python -m`."""
    for name in draw.sample(["json", "argparse", "torch", "yaml", "mlflow", "numpy", "fcntl", "ray", "optuna"], 4):
        _plant(case.run_dir / f"{name}.py", name)
    package = case.run_dir / draw.choice(["trainables", "rich", "scipy"])
    package.mkdir()
    _plant(package / "__init__.py", package.name)
    case.cwd = case.run_dir
    case.fresh = draw.random() < 0.3


# How.


class _Pickled:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class _unless_there:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return isinstance(error, OSError)


def _plant(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EVIL.format(name=name), "utf-8")


def _flip(path: Path, draw: random.Random, bits: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(bits):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _swap(path: Path, target: Path) -> None:
    """A link in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def _instead(case: Case, path: Path, draw: random.Random) -> None:
    """Something that is no such file."""
    content = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    kind = draw.choice(["empty", "folder", "private", "copy", "nowhere", "zeros", "pipe", "gone", "bytes", "loop"])
    case.told.append(kind)
    match kind:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "private":
            path.symlink_to(case.private)
        case "copy":
            (case.run_dir / "the-other").write_bytes(content)
            path.symlink_to(case.run_dir / "the-other")
        case "nowhere":
            path.symlink_to(case.victim / "made-by-a-link")
        case "zeros":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "bytes":
            path.write_bytes(draw.randbytes(3000))
        case "loop":
            path.symlink_to(path)
        case _:
            pass


def _tree(case: Case) -> dict[str, Any]:
    return yaml.safe_load(case.spec.read_text("utf-8"))


def _respecified(case: Case, tree: Any) -> None:
    """The spec; where the chain is made anew, with a first event that has its hash."""
    case.spec.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "utf-8")
    if case.form == "made anew":
        events = case.events()
        for event in events[:1]:
            if "spec_hash" in event:
                event["spec_hash"] = _hash(case.spec) or event["spec_hash"]
        case.write_events(events)


def _hash(path: Path) -> str | None:
    from sweeper.spec.load import load

    try:
        return load(path).spec_hash
    except Exception:  # whatever a strange spec does to this version
        return None


def _bombs(draw: random.Random) -> str:
    aliases = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    data = "data: {block: *a9}\n"
    depth = draw.choice((100, 5000, 100_000))
    tagged = "data: {block: !!python/object/apply:os.system [x]}"
    return draw.choice([aliases + data, tagged, *(text * depth for text in ("data: [", "{a: ", "- "))])


def manifests(case: Case) -> list[Path]:
    return sorted(case.run_dir.rglob("checkpoint.json"))


def _resealed(checkpoint: Path) -> None:
    """With a manifest that has the digests of what is there now."""
    path = checkpoint / "checkpoint.json"
    if path.is_file():
        manifest = json.loads(path.read_text("utf-8"))
        files = [one for one in checkpoint.rglob("*") if one.is_file() and one != path]
        manifest["sha256"] = {str(one.relative_to(checkpoint)): sha256(one.read_bytes()).hexdigest() for one in files}
        path.write_text(json.dumps(manifest), "utf-8")


def _tensor(path: Path, draw: random.Random) -> None:
    """A safetensors file with another header, or other bytes."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    kind = draw.randrange(6)
    if kind == 0:
        _flip(path, draw, 4)
        return
    if kind == 1:
        path.write_bytes(struct.pack("<Q", draw.choice((2**63, 2**40, 0, 7))) + data[8:])
        return
    if kind == 2:
        path.write_bytes(data[: draw.randrange(len(data))])
        return
    name = draw.choice([name for name in header if name != "__metadata__"])
    if kind == 3:
        header[name]["shape"] = draw.choice([[2**40], [-1], [0], [2**31, 2**31], "x", [1, 2, 3, 4, 5]])
    elif kind == 4:
        header[draw.choice(["\x1b[2J", "x" * 10_000, "../x"])] = header.pop(name)
    else:
        header[name]["data_offsets"] = draw.choice([[0, 2**50], [5, 1], [0, 0], "x", []])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def _change(trees: list[Any], draw: random.Random, new: Callable[[Any], Any], kind: Any) -> None:
    """Another value in one place of one tree that has a value of a kind; true and false are no numbers."""
    tree = draw.choice(trees)
    fitting = [
        (holder, key)
        for holder, key in _places(tree)
        if isinstance(holder[key], kind) and (kind is object or not isinstance(holder[key], bool))
    ]
    if fitting:
        holder, key = draw.choice(fitting)
        holder[key] = new(holder[key])


def _everywhere(tree: Any, draw: random.Random, texts: list[str]) -> Any:
    """With some of its texts and keys replaced, few or many; not those by which events are told apart."""
    share = draw.choice((0.005, 0.03, 0.3))
    fixed = ("event", "trainable")

    def changed(tree: Any) -> Any:
        if isinstance(tree, list):
            return [changed(each) for each in tree]
        if isinstance(tree, dict):
            return {
                draw.choice(texts) if draw.random() < share / 10 and key not in fixed else key: (
                    value if key in fixed else changed(value)
                )
                for key, value in tree.items()
            }
        return draw.choice(texts) if isinstance(tree, str) and draw.random() < share else tree

    return changed(tree)


def _replaced(tree: Any, old: str, new: str) -> Any:
    if isinstance(tree, list):
        return [_replaced(each, old, new) for each in tree]
    if isinstance(tree, dict):
        return {new if key == old else key: _replaced(value, old, new) for key, value in tree.items()}
    if isinstance(tree, str) and old in tree:
        return new if tree == old else tree  # its checkpoint still lies where it lay
    return tree
