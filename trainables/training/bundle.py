"""What a run leaves on disk: checkpoints to resume from, and the published bundle. safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from sweeper.system import files
from trainables import limits, received
from trainables.data.batches import Prepared
from trainables.data.words_seen import Milestone
from trainables.model.bert import CompactBert
from trainables.model.masked_lm import MaskedLM, sizes
from trainables.settings import described
from trainables.settings.config import Config

Row = dict[str, float]
N_HOT = """
N-hot embeddings (Edman & Fraser 2025): in training, a linear layer of a token's substrings adds to its input embedding.
Here it is folded in, so the input embedding and the decoder are not tied.
"""
PAIRS = ": the two segment types, which\ntools for pairs want, share the one embedding that was trained"
SERIES = "series"
RUN = "run.json"  # in a checkpoint: the identity of its run
_NAMED = {"corpus", "tokenizer", "validation", "test"}  # name a text by its place: the same text may lie elsewhere
PACKAGES = ("torch", "numpy", "safetensors", "tokenizers")


def write_checkpoint(states: Mapping[str, Mapping[str, Tensor]], history: list[Row], run: Mapping[str, Any]) -> Path:
    """Write a new temporary folder: a safetensors file for each state, all rows of metrics, the run's `identity`."""
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
    _write_json(folder / RUN, run)
    for name, state in states.items():
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in state.items()}, folder / f"{name}.safetensors"
        )
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
    return folder


def read_checkpoint(
    folder: Path, names: Collection[str] = ("model", "optimiser", "masking")
) -> tuple[dict[str, dict[str, Tensor]], list[Row]]:
    """(states, history) of `write_checkpoint`. A bundle beside them is not read. ValueError for other folders.

    names: of the states that must be there.
    """
    files.refuse_links(folder.resolve())
    paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        received.header(path)
    states = {path.stem: load_file(path) for path in paths}
    if missing := set(names) - states.keys():
        raise ValueError(f"{folder} has no {min(missing)}.safetensors")
    return states, _history(folder / "history.jsonl")


def _history(path: Path) -> list[Row]:
    """Rows of numbers with rising steps. ValueError, in one line, names the first other line."""
    rows: list[Row] = []
    for number, line in enumerate(limits.read(path, limits.TOKENIZER).splitlines(), 1):
        try:
            row = limits.json_value(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        numbers = isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())
        step = row.get("step") if numbers else None
        if type(step) is not int or step <= (rows[-1]["step"] if rows else 0):
            raise ValueError(f"{path}, line {number} is not a row of numbers with a later step")
        rows.append(row)
    return rows


def refuse_unlike(states: Mapping[str, Mapping[str, Tensor]], own: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raises ValueError, in one line, unless the states have every tensor of a run's own, in the same shape."""
    for name, tensors in own.items():
        for key, tensor in tensors.items():
            found = states[name].get(key)
            if found is None or found.shape != tensor.shape:
                actual = "missing" if found is None else f"of shape {list(found.shape)}"
                raise ValueError(f"{name}.safetensors: {key} is {actual}, not of shape {list(tensor.shape)}")


def identity(config: Config, seed: int, data_fingerprint: str) -> dict[str, Any]:
    """What determines the numbers of a run, as plain data: runs with equal identities have equal numbers."""
    return {"seed": seed, "config": config.model_dump(mode="json"), "data_fingerprint": data_fingerprint}


def departure(checkpoint: Path, run: Mapping[str, Any]) -> str | None:
    """The first difference between a run and the one that wrote a checkpoint, as `KEY was A, is B`; None if none.

    Raises FileNotFoundError if the checkpoint does not name its run, and ValueError, in one line, if that cannot be
    read.
    """
    files.refuse_links(checkpoint.resolve())
    content = limits.read(checkpoint / RUN, limits.SETTINGS)
    try:
        recorded = limits.json_value(content)
        then, same_text = dict(_moving(recorded)), recorded["data_fingerprint"] == run["data_fingerprint"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{checkpoint / RUN} cannot be read ({error})") from None
    now = dict(_moving(run))
    for key in (*then, *(key for key in now if key not in then)):
        if then.get(key) != now.get(key) and not (same_text and key.removeprefix("data.") in _NAMED):
            return f"{key} was {json.dumps(then.get(key))}, is {json.dumps(now.get(key))}"
    return None


def refuse_other(checkpoint: Path, run: Mapping[str, Any], allow_unnamed: bool = True) -> None:
    """Raises ValueError, in one line, for a checkpoint of a run with another `identity`.

    allow_unnamed: whether to accept one that does not name its run, as earlier versions wrote them. A sweep does: it
    keeps its own record.
    """
    try:
        reason = departure(checkpoint, run)
    except FileNotFoundError:
        reason = None if allow_unnamed else f"it has no {RUN} (an earlier version wrote it)"
    if reason:
        raise ValueError(f"{checkpoint} belongs to another run: {reason}")


def _moving(run: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything that can change a run's numbers, by dotted path, the text last. A length is in its steps."""
    yield "seed", run["seed"]
    rest = {key: value for key, value in run["config"].items() if key not in ("data", "length", "init_from")}
    yield from _flat(rest, "")
    if begun := run["config"].get("init_from"):
        yield "init_from.weights", begun["weights"]  # wherever the bundle lies
    yield from _flat(run["config"]["data"], "data.")
    yield "data_fingerprint", run["data_fingerprint"]


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


class Series:
    """The bundles by words seen that a run has written so far, in their own folder. Every checkpoint includes them.

    restored: the checkpoint to resume from, with those of earlier sessions.
    """

    def __init__(self, restored: Path | None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="series-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        if restored and (restored / SERIES).is_dir():
            files.refuse_links(restored / SERIES)
            self._linked(restored / SERIES, self._folder)

    def add(self, milestone: Milestone, model: MaskedLM, prepared: Prepared, config: Config, seed: int) -> None:
        """Write the model as it is now: a `BertForMaskedLM` with its tokenizer, settings and metadata.

        Args:
            milestone: that the run has reached.
            model: the model.
            prepared: its corpus, for the tokenizer.
            config: of the run.
            seed: of the run.
        """
        folder = self._folder / milestone.name
        write_model(folder, model, prepared, config)
        metadata = {"seed": seed, "step": milestone.step, "mark": milestone.target, "words": milestone.words}
        _write_json(folder / "metadata.json", metadata | _origin(model, prepared))

    def into(self, folder: Path) -> None:
        """Copy or link all of them into `folder`/series, if there are any."""
        if any(self._folder.iterdir()):
            self._linked(self._folder, folder / SERIES)

    @staticmethod
    def _linked(source: Path, target: Path) -> None:
        """Hard links where the disk allows them, since the files never change; copies elsewhere."""

        def link(one: str, other: str) -> None:
            try:
                os.link(one, other)
            except OSError:
                shutil.copyfile(one, other)

        shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)


def write_bundle(folder: Path, model: MaskedLM, prepared: Prepared, config: Config, outcome: Mapping[str, Any]) -> None:
    """Write a `BertForMaskedLM` with its tokenizer, settings, metadata and model card.

    Args:
        folder: is made.
        model: the trained model.
        prepared: its corpus.
        config: of the run.
        outcome: `seed`, the `words` seen, and the last row of `metrics`, for metadata.json.
    """
    write_model(folder, model, prepared, config)
    metrics = outcome["metrics"]
    metadata = {
        "seed": outcome["seed"],
        "step": metrics["step"],
        "words": outcome["words"],
        "metrics": {key: value for key, value in metrics.items() if not key.startswith("audit/")},
        "mask_audit": {key: value for key, value in metrics.items() if key.startswith("audit/")},
        **_origin(model, prepared),
    }
    _write_json(folder / "metadata.json", metadata)
    (folder / "README.md").write_text(_card(config, metadata), "utf-8")


def write_model(folder: Path, model: MaskedLM, prepared: Prepared, config: Config) -> None:
    """Write a new folder with the settings, which AutoModelForMaskedLM and AutoTokenizer load.

    Args:
        folder: is made.
        model: the model.
        prepared: its corpus, for the tokenizer.
        config: of the run.
    """
    folder.mkdir()
    model.export(folder)
    words = prepared.tokenizer_files()
    shutil.copy(words / "tokenizer.json", folder / "tokenizer.json")
    settings = json.loads((words / "tokenizer_config.json").read_text("utf-8"))
    _write_json(folder / "tokenizer_config.json", settings | {"model_max_length": config.model.max_positions})
    (folder / "training_config.yaml").write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), "utf-8")


def _origin(model: MaskedLM, prepared: Prepared) -> dict[str, Any]:
    """The code, text and libraries behind a model."""
    packages = (*PACKAGES, *(() if isinstance(model, CompactBert) else ("transformers",)))
    return {
        "code_fingerprint": code_fingerprint(),
        "data_fingerprint": prepared.fingerprint,
        "data": prepared.facts,
        "architecture": model.title,
        "parameters": sizes(model),
        "versions": {name: version(name) for name in packages},
    }


def code_fingerprint() -> str:
    """Hash of the source of `trainables` with all its folders, 16 hex digits."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _data(facts: Mapping[str, Any]) -> str:
    """What the tokenizer is and what it drops of the text, for the model card."""
    lines = [f"**Caution:** {_as_text(line)}" for line in facts.get("warnings", ())]
    lines += map(_as_text, facts.get("notes", ()))
    return "\n".join(f"* {line}" for line in lines)


def _as_text(given: str) -> str:
    """One line that Markdown shows as it is; text between two backticks is code."""
    acts = r"(?<!`)`[^`]+`(?!`)|[\\`*_\[<&~$|]"
    return re.sub(acts, lambda found: found[0] if len(found[0]) > 1 else f"\\{found[0]}", files.one_line(given))


def _begun(config: Config) -> str:
    """Where training began, for the model card."""
    if config.init_from is None:
        return ""
    folder = files.one_line(config.init_from.bundle).replace("`", "'")
    return (
        f"\nTraining began with the weights of `{folder}` (SHA-256 `{config.init_from.weights}`), with a fresh "
        "optimiser and masking policy: steps and words are those since then.\n"
    )


def _card(config: Config, metadata: dict[str, Any]) -> str:
    metrics, masking = metadata["metrics"], described.masking(config.masking)
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [masked-language-modeling, {config.model.architecture}]
---
# {metadata["architecture"]}, {metadata["parameters"] / 1e6:.1f} M parameters

Pretrained for {metrics["step"]} steps of {config.batch_size} rows of {config.data.block} tokens, {metadata["words"]:,}
words, on `{files.one_line(config.data.corpus).replace("`", "'")}`, {masking}. Seed {metadata["seed"]}.
{N_HOT if config.model.embedding == "nhot" else ""}{_begun(config)}

| metric | nats |
|---|---:|
| validation loss, all predicted positions | {metrics["val/loss"]:.4f} |
| validation loss, [MASK] positions | {metrics["val/loss_mask"]:.4f} |
| unigram cross-entropy, [MASK] positions | {metrics["val/unigram_mask"]:.4f} |

{_data(metadata["data"])}

Positions beyond {config.data.block} and [CLS] were never trained, nor pairs of sentences{PAIRS * config.model.compact}.
Settings: `training_config.yaml`; fingerprints, versions and the mask audit: `metadata.json`.
"""
