"""A bundle or a checkpoint that somebody made to do harm is refused in one line, in seconds, with nothing of it run."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainables.probes import write_rows, write_zorro
from tests.trainables.tiny import config, run
from trainables import evaluate, limits, mlm, received
from trainables.evaluation import finetune, tasks
from trainables.training import bundle as bundles

pytestmark = pytest.mark.usefixtures("own_cache")

Harm = Callable[[Path], Any]
WEIGHTS = "model.safetensors"
EMBEDDING = "bert.embeddings.word_embeddings.weight"


def settings(name: str = "config.json", **changes: Any) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")

    return harm


def content(name: str, written: bytes | str) -> Harm:
    return lambda folder: (folder / name).write_bytes(written.encode() if isinstance(written, str) else written)


def header(change: Callable[[dict[str, Any]], Any]) -> Harm:
    """A header that says other things of the same bytes."""

    def harm(folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        entries = json.loads(whole[8 : 8 + size])
        changed = change(entries)
        text = json.dumps(entries if changed is None else changed).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + size :])

    return harm


def entry(**changes: Any) -> Harm:
    return header(lambda entries: entries[EMBEDDING].update(changes))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return harm


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "tokenizer.json"
        described = json.loads(path.read_text("utf-8"))
        change(described)
        path.write_text(json.dumps(described), "utf-8")

    return harm


def linked(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/etc/passwd")

    return harm


def piped(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return harm


def doubling(described: dict[str, Any]) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    described["normalizer"] = {"type": "Sequence", "normalizers": [step] * 40}


def cut_short(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100)


def sparse(folder: Path) -> None:
    """Ten tebibytes by name, of which nothing is on the disk."""
    text = json.dumps({"x": {"dtype": "F32", "shape": [10 * 2**38], "data_offsets": [0, 10 * 2**40]}}).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 10 * 2**40)


DEEP = "[" * 50_000 + "]" * 50_000
NESTED = json.loads("[" * 200 + "]" * 200)
BOMB = "".join(f"{'abcdefghij'[n]}: &{'abcdefghij'[n]} [{', '.join(['*' + 'abcdefghi'[n - 1]] * 10 if n else ['x'])}]\n"
               for n in range(10))  # fmt: skip
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 40))

BUNDLES: list[tuple[str, Harm, str]] = [
    ("empty weights", content(WEIGHTS, ""), "its header claims 0 bytes"),
    ("three bytes", content(WEIGHTS, "abc"), "damaged or not safetensors"),
    ("text for weights", content(WEIGHTS, "not weights at all"), "its header claims"),
    ("a header of 2^63 bytes", content(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"), "its header claims"),
    ("a header that is no JSON", content(WEIGHTS, struct.pack("<Q", 2) + b"{["), "damaged or not safetensors"),
    ("a header that is a list", content(WEIGHTS, struct.pack("<Q", 2) + b"[]"), "damaged or not safetensors"),
    ("a deep header", content(WEIGHTS, struct.pack("<Q", 100_000) + DEEP.encode()), "nested more than 100 deep"),
    ("a header that is no UTF-8", content(WEIGHTS, struct.pack("<Q", 2) + b"\xff\xff"), "damaged or not safetensors"),
    ("cut short", cut_short, "its tensors take"),
    ("sparse", sparse, "weights do not fit into the memory here"),
    ("no shape", header(lambda entries: entries[EMBEDDING].pop("shape")), "damaged"),
    ("a huge shape", entry(shape=[2**40, 2**40]), "a shape of the wrong size"),
    ("a shape of too many zeros", entry(shape=[0, 2**62]), "a shape of the wrong size"),
    ("a negative shape", entry(shape=[-1, 16]), "has no valid shape"),
    ("a shape in words", entry(shape=["x"]), "has no valid shape"),
    ("another shape", entry(shape=[16, 248]), f"{EMBEDDING} of shape [248, 16], model.safetensors of [16, 248]"),
    ("an unknown type", entry(dtype="PICKLE"), "damaged"),
    ("another type", entry(dtype="F64"), "a shape of the wrong size"),
    ("offsets over each other", entry(data_offsets=[0, 248 * 16 * 4]), "overlap or leave gaps"),
    ("offsets beyond the file", entry(data_offsets=[2**40, 2**40 + 248 * 64]), "overlap or leave gaps"),
    ("offsets the wrong way", entry(data_offsets=[64, 0]), "a shape of the wrong size"),
    ("an entry that is none", header(lambda entries: entries.update({EMBEDDING: 3})), "damaged"),
    ("no tensors", header(lambda _: {}), "its tensors take 0 bytes"),
    ("a name for the terminal", header(lambda e: e.update({"\x1b[2J": {"shape": 1}})), "damaged"),
    ("weights missing", weights(lambda tensors: tensors.pop(EMBEDDING)), "lacks weights"),
    ("a pickle in place of weights", lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
     "no model.safetensors"),
    ("weights that are a link", linked(WEIGHTS), "is a link"),
    ("weights that are a pipe", piped(WEIGHTS), "neither a file nor a folder"),
    ("a link beside", linked("README.md"), "is a link"),
    ("a config that is a pipe", piped("config.json"), "neither a file nor a folder"),
    ("a config that is a link", linked("config.json"), "is a link"),
    ("a config that is no JSON", content("config.json", "{"), "is not JSON"),
    ("a config that is a list", content("config.json", "[1]"), "is not a JSON object"),
    ("a deep config", content("config.json", '{"a": ' + DEEP + "}"), "nested more than 100 deep"),
    ("a config of 3 MB", content("config.json", json.dumps({"a": "x" * 3_000_000})), "exceeds 1 MiB"),
    ("a config that is no UTF-8", content("config.json", b'{"model_type": "\xff"}'), "is not JSON"),
    ("a config without a type", content("config.json", "{}"), "config.json cannot be read"),
    ("a type that is a number", settings(model_type=7), "config.json cannot be read"),
    ("10^7 layers", settings(num_hidden_layers=10**7), "num_hidden_layers is 10000000, but model.safetensors has"),
    ("no layers", settings(num_hidden_layers=0), "weights of layers that its config leaves out"),
    ("another's layers", settings(num_hidden_layers=40), "lacks weights of its model"),
    ("10^9 channels", settings(hidden_size=10**9), "hidden_size is 1000000000, but model.safetensors has"),
    ("10^6 channels", settings(hidden_size=10**6), "of shape [248, 1000000]"),
    ("10^12 entries", settings(vocab_size=10**12), "vocab_size is"),
    ("10^9 positions", settings(max_position_embeddings=10**9), "max_position_embeddings is"),
    ("10^8 labels", settings(num_labels=10**8), "num_labels is 100000000, which is more than any model has"),
    ("10^7 deep down", settings(text_config={"n_layers": 10**7}), "n_layers is 10000000"),
    ("a number of 400 digits", settings(hidden_size=10**400), "hidden_size is"),
    ("no heads", settings(num_attention_heads=0), "config.json cannot be read"),
    ("channels in words", settings(hidden_size="sixteen"), "config.json cannot be read"),
    ("channels as a list", settings(hidden_size=[16]), "config.json cannot be read"),
    ("no channels", settings(hidden_size=-16), "config.json cannot be read"),
    ("not a number", settings(layer_norm_eps=float("nan")), "layer_norm_eps is nan, not a number"),
    ("a norm in words", settings(layer_norm_eps="x"), ""),
    ("an unknown activation", settings(hidden_act="import os"), "config.json cannot be read"),
    ("padding beyond", settings(pad_token_id=999), "config.json cannot be read"),
    ("chunks that do not fit", settings(chunk_size_feed_forward=7), "fail on a first sentence"),
    ("a kernel from elsewhere", settings(attn_implementation="some/kernel"), "may load code from elsewhere"),
    ("quantised", settings(quantization_config={"quant_method": "gptq"}), "quantised weights are not read"),
    ("an adapter", content("adapter_config.json", '{"base_model_name_or_path": "/etc"}'), "would load another model"),
    ("no tokenizer.json", content("tokenizer.json", "{"), "is not JSON"),
    ("a deep tokenizer", content("tokenizer.json", '{"a": ' + DEEP + "}"), "nested more than 100 deep"),
    ("an empty tokenizer", content("tokenizer.json", "{}"), "has no tokenizer of its own"),
    ("a normalizer that doubles", tokenizer(doubling), "turns one character into more than 10,000"),
    ("ids beyond", tokenizer(lambda it: it["post_processor"]["special_tokens"]["[CLS]"].update(ids=[10**6])),
     "has the id 1,000,000, the model only 248 entries"),
    ("a tokenizer's deep settings", content("tokenizer_config.json", '{"a": ' + DEEP + "}"), "nested more than 100"),
    ("a tokenizer's settings as a list", content("tokenizer_config.json", "[]"), "is not a JSON object"),
    ("an alias bomb", content("training_config.yaml", BOMB), "anchors and aliases (& and *) are not allowed"),
    ("merges without end", content("training_config.yaml", MERGES), "anchors and aliases (& and *) are not allowed"),
    ("deep YAML", content("training_config.yaml", DEEP[:30_000]), "nested deeper than 24 levels"),
    ("long YAML", content("training_config.yaml", "- a\n" * 100_000), "exceeds 0.0625 MiB"),
    ("YAML with a tag", content("training_config.yaml", "!!python/object/apply:os.system [a]"), "tags (tag:yaml.org"),
    ("YAML that is a pipe", piped("training_config.yaml"), "neither a file nor a folder"),
]  # fmt: skip


@pytest.fixture(scope="module")
def zorro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zorro(tmp_path_factory.mktemp("zorro"), pairs=2)


def judged(folder: Path, *arguments: str) -> int:
    return evaluate.main([str(folder), "--threads", str(torch.get_num_threads()), *arguments])


@pytest.mark.parametrize(("harm", "message"), [case[1:] for case in BUNDLES], ids=[case[0] for case in BUNDLES])
@pytest.mark.timeout(60)
def test_a_hostile_bundle_is_one_line(
    bundle: Path, zorro: Path, tmp_path: Path, harm: Harm, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    harm(folder)
    assert judged(folder, "--task", f"zorro={zorro}") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_a_sound_bundle_is_what_it_was(bundle: Path) -> None:
    received.check_bundle(bundle)
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(bundle / WEIGHTS).items()}
    assert received.header(bundle / WEIGHTS) == shapes


def test_names_of_a_task_reach_no_terminal_as_they_are(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rows = [{"sentence_good": "Ba ne.", "sentence_bad": "Ne ba.", "field": "x", "UID": "[/red]\x1b[2J"}]
    assert judged(bundle, "--task", f"blimp={write_rows(tmp_path / 'a.jsonl', rows)}") == 0
    out, _ = capsys.readouterr()
    assert "[/red]\\x1b[2J" in out
    assert "\x1b" not in out


TASKS = [
    ("blimp", "a.jsonl", DEEP, "a.jsonl:1 is not JSON: it is nested more than 100 deep"),
    ("blimp", "a.jsonl", f'{{"sentence_good": {json.dumps(NESTED)}}}', "nested more than 100 deep"),
    ("wug_adj", "a.jsonl", '{"ratio": ' + "9" * 5000 + "}", "a.jsonl:1 is not JSON: Exceeds the limit"),
    ("wug_past", "a.jsonl", b"\xff\xfe", "is not UTF-8"),
    ("zorro", "a.txt", b"\x80" * 10, "is not UTF-8"),
    ("glue/rte", "train.jsonl", DEEP, "train.jsonl, line 1: not JSON: it is nested more than 100 deep"),
    ("glue/rte", "train.jsonl", "9" * 5000, "train.jsonl, line 1: not JSON: Exceeds the limit"),
]


@pytest.mark.parametrize(("task", "name", "written", "message"), TASKS)
def test_a_hostile_task_is_one_line(
    tmp_path: Path, bundle: Path, task: str, name: str, written: bytes | str, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    content(name, written)(tmp_path)
    content("valid.jsonl", "{}")(tmp_path) if task.startswith("glue") else None
    assert judged(bundle, "--task", f"{task}={tmp_path}") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_task_larger_than_any_is_refused_unread(tmp_path: Path, bundle: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(limits.TASK + 1)
    with pytest.raises(ValueError, match="exceeds 512 MiB"):
        tasks.check({"blimp": str(tmp_path)}, bundle, 32)


def test_what_the_cache_keeps_of_scores_is_made_anew_where_it_is_damaged(
    bundle: Path, zorro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    first = tasks.evaluate(bundle, {"zorro": str(zorro)})
    kept = next((tmp_path / "untrained").iterdir())
    sound = kept.read_bytes()
    for damage in (b"", b"\x80\x04N.", sound[:-8], sound.replace(b"<f8", b"|O8"), sound.replace(b"<f8", b"<i8")):
        kept.write_bytes(damage)
        assert tasks.evaluate(bundle, {"zorro": str(zorro)}) == first
        assert kept.read_bytes() == sound


@pytest.mark.parametrize("written", ["{", "[]", "{}", '{"score": "x", "last": 0, "majority": 0}',
                                     '{"score": NaN, "last": 0, "majority": 0}', DEEP])  # fmt: skip
def test_a_record_of_fine_tuning_that_is_none_is_made_anew(tmp_path: Path, written: str) -> None:
    (tmp_path / "a.json").write_text(written, "utf-8")
    assert finetune._kept(tmp_path / "a.json", 1) is None


def states(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / f"{name}.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return harm


def history(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "history.jsonl"
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        change(rows[-1])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    return harm


CHECKPOINTS: list[tuple[Harm, str]] = [
    (lambda folder: os.truncate(folder / "optimiser.safetensors", 1000), "optimiser.safetensors is damaged"),
    (content("model.safetensors", b""), "model.safetensors is damaged"),
    (content("masking.safetensors", struct.pack("<Q", 2**62)), "masking.safetensors is damaged"),
    (content("other.safetensors", b"\x80\x04N."), "other.safetensors is damaged"),
    (lambda folder: (folder / "masking.safetensors").unlink(), "has no masking.safetensors"),
    (linked("model.safetensors"), "is a link"),
    (piped("history.jsonl"), "neither a file nor a folder"),
    (linked("run.json"), "is a link"),
    (states("model", lambda it: it.popitem()), "is missing, not of shape"),
    (states("model", lambda it: it.update(word=torch.zeros(2, 2))), "word is of shape [2, 2], not of shape"),
    (states("optimiser", lambda it: it.update({min(it): torch.zeros(1, 1)})), "is of shape [1, 1]"),
    (states("masking", lambda it: it.update(by_id=torch.zeros(1))), "damaged or of another model"),
    (states("masking", lambda it: it.pop("by_id")), "damaged or of another model"),
    (states("masking", lambda it: it.update(words=torch.zeros(1))), "words is of shape [1], not of shape [2]"),
    (content("history.jsonl", ""), "its history does not fit a run of"),
    (content("history.jsonl", "{"), "history.jsonl, line 1 is not JSON"),
    (content("history.jsonl", DEEP), "history.jsonl, line 1 is not JSON: it is nested more than 100 deep"),
    (content("history.jsonl", "[1]\n"), "history.jsonl, line 1 is not a row of numbers"),
    (content("history.jsonl", b"\xff\n"), "history.jsonl, line 1 is not JSON"),
    (history(lambda row: row.update(step="5")), "is not a row of numbers"),
    (history(lambda row: row.update(step=-5)), "is not a row of numbers"),
    (history(lambda row: row.update(step=10**9)), "its history does not fit a run of"),
    (history(lambda row: row.update({"val/loss": {"a": 1}})), "is not a row of numbers"),
    (content("run.json", DEEP), "run.json cannot be read"),
    (content("run.json", b"\xff"), "run.json cannot be read"),
    (content("run.json", '{"seed": 0}'), "run.json cannot be read"),
]


@pytest.fixture(scope="module")
def ended(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run."""
    folder = tmp_path_factory.mktemp("run")
    run(config(corpus), folder)
    return folder / "checkpoint"


@pytest.mark.parametrize(("harm", "message"), CHECKPOINTS)
def test_a_hostile_checkpoint_is_one_line(
    corpus: Path, ended: Path, tmp_path: Path, harm: Harm, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ended, tmp_path / mlm.KEPT)
    harm(tmp_path / mlm.KEPT)
    settings = config(corpus).model_dump(mode="json", exclude_defaults=True)
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    arguments = [*given, "--resume", "--output", str(tmp_path), "--threads", str(torch.get_num_threads())]
    assert mlm.main(arguments) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ")
    assert message in last


def test_a_sound_checkpoint_is_what_it_was(ended: Path) -> None:
    found, rows = bundles.read_checkpoint(ended)
    assert set(found) == {"model", "optimiser", "masking"}
    assert [row["step"] for row in rows] == [5, 10, 15, 20]


@pytest.mark.parametrize("setting", ["steps=" + "[" * 5000, "steps=*a", "steps=&a [*a]", ".".join("a" * 5000) + "=1"])
def test_a_hostile_setting_is_one_line(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlm.main(["--set", setting]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


class Gone(io.TextIOWrapper):
    """A stream whose reader has gone after the first line, as `head -1` goes."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        super().__init__(os.fdopen(writer, "wb"), "utf-8", write_through=True)
        os.close(self.reader)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_is_no_failure(
    bundle: Path, zorro: Path, stream: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Gone() as gone:
        monkeypatch.setattr(f"sys.{stream}", gone)
        assert judged(bundle, "--task", f"zorro={zorro}") == 0
        assert judged(bundle, "--task", f"zorro={zorro}", "--json") == 0
        assert judged(bundle, "--task", "zorro=/none") == 2
    assert "Traceback" not in "".join(capsys.readouterr())


def test_training_goes_on_where_the_reader_of_its_lines_has_gone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(corpus).model_dump(mode="json", exclude_defaults=True)
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    with Gone() as gone:
        monkeypatch.setattr("sys.stderr", gone)
        assert mlm.main([*given, "--output", str(tmp_path), "--threads", str(torch.get_num_threads())]) == 0
    assert (tmp_path / mlm.KEPT / "bundle" / WEIGHTS).is_file()


@pytest.mark.parametrize("name", [mlm.KEPT, mlm.NEXT, "series"])
def test_a_link_in_the_output_folder_is_not_written_through(
    corpus: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    settings = config(corpus).model_dump(mode="json", exclude_defaults=True)
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert mlm.main([*given, "--output", str(tmp_path / "run"), "--resume"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert os.listdir(tmp_path / "victim") == []
