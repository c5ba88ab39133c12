"""`init_from`: training goes on from a bundle's weights, in a model of the same shape with the same tokenizer.

The weights alone are taken over: optimiser, learning rate and masking policy start afresh, and batches and noise are
those of the seed. A bundle may be a stranger's: it is checked as any that is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from sweeper.system import files
from trainables import limits, received
from trainables.data.batches import Prepared, prepare
from trainables.model import initialisation
from trainables.model.family import SIZES
from trainables.model.masked_lm import MaskedLM
from trainables.settings.config import Beginning, Config, DataConfig, ModelConfig

# What two configurations may differ in: nothing of the arithmetic that the weights were trained for.
_FREE = ("drop", "init", "dtype", "version", "architectures", "name_or_path", "use_cache", "_token_id", "id2label")
_SETTING = {name: f"model.{word}" for word, names in SIZES.items() for name in names}
_SETTING |= {
    "model_type": "model.architecture",
    "vocab_size": "data.tokenizer",
    "tie_word_embeddings": "model.embedding",
}


def there(config: Config) -> None:
    """Raises ValueError, in one line, for a bundle that is missing, or is another than the settings name."""
    if config.init_from:
        _same_weights(config.init_from)


def check(config: Config) -> list[str]:
    """What people must know of where a run begins; nothing without `init_from`.

    Raises ValueError, in one line, for a bundle that is missing, is another than at the start, or does not fit.
    """
    if config.init_from is None:
        return []
    _same_weights(config.init_from)
    return _checked(*(one.model_dump_json() for one in (config.init_from, config.model, config.data)))


def _described(folder: Path) -> dict[str, Any]:
    """A bundle's configuration with all its defaults; the bundle has been checked."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).to_dict()


@lru_cache(maxsize=64)
def _checked(begun: str, shape: str, text: str) -> list[str]:
    """Of the three sections as JSON. Once for each: a sweep asks for every corner of its space."""
    given, model = Beginning.model_validate_json(begun), ModelConfig.model_validate_json(shape)
    folder, prepared = Path(given.bundle), prepare(DataConfig.model_validate_json(text))
    received.check_bundle(folder)
    theirs, own = _described(folder), initialisation.described(model, prepared)
    for key, value in own.items():
        if not any(part in key for part in _FREE) and theirs.get(key) != value:
            setting = f" ({_SETTING[key]})" if key in _SETTING else ""
            raise ValueError(
                f"init_from {folder}: its {key} is {theirs.get(key)!r:.40}, here it is {value!r:.40}{setting}: "
                "training goes on in the same architecture alone"
            )
    own, other = (
        limits.json_file(place / "tokenizer.json", limits.TOKENIZER) for place in (prepared.tokenizer_files(), folder)
    )
    if own != other:
        raise ValueError(
            f"init_from {folder}: its tokenizer is not that of data.tokenizer, so its weights mean other tokens: set "
            f"data.tokenizer to {folder}"
        )
    return [_begins(given, folder), *_other_text(folder, prepared)]


def _same_weights(given: Beginning) -> None:
    """Raises ValueError unless the bundle is there, with the weights that the settings name."""
    try:
        found = received.digest(Path(given.bundle))
    except (OSError, ValueError) as error:
        raise ValueError(f"init_from: {files.describe(error) if isinstance(error, OSError) else error}") from None
    if found != given.weights:
        raise ValueError(
            f"init_from {given.bundle}: its weights are not those that this run is of ({found[:8]} for "
            f"{str(given.weights)[:8]}): put them back, or start a new run"
        )


def _begins(given: Beginning, folder: Path) -> str:
    step = limits.metadata(folder).get("step")
    after = f", after {step:,} steps of their own run" if type(step) is int else ""
    return (
        f"with init_from, training begins with the weights of {folder} (SHA-256 {str(given.weights)[:8]}{after}), not "
        "at random, with a fresh optimiser, learning rate and masking policy: what those steps taught is in every loss"
    )


def _other_text(folder: Path, prepared: Prepared) -> list[str]:
    """A caution where the weights may have seen what is validation text here."""
    theirs = limits.metadata(folder).get("data_fingerprint")
    if theirs == prepared.fingerprint:
        return []
    why = "come from other text, or from another division of it" if theirs else "do not say which text they saw"
    return [
        f"the weights of {folder} {why}: they may have seen validation or test documents of this corpus, whose losses "
        "are then too low"
    ]


def load(model: MaskedLM, config: Config) -> None:
    """Give a model of the config's shape the bundle's weights. ValueError, in one line, for others than it names."""
    given = config.init_from
    assert given is not None
    _same_weights(given)
    folder = Path(given.bundle)
    received.header(folder / received.WEIGHTS)
    limits.fails(lambda: model.take(folder), f"init_from: {folder} cannot be read")
