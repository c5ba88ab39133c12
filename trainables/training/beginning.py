"""`init_from`: training goes on from a bundle's weights, in a model of the same shape with the same tokenizer.

The weights alone are taken over: optimiser, learning rate and masking policy start afresh, and batches and noise are
those of the seed. A bundle may be a stranger's: it is checked as any that is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from safetensors.torch import load_file

from sweeper.system import files
from trainables import limits, received
from trainables.data.batches import Prepared, prepare
from trainables.model import initialisation
from trainables.model.masked_lm import MaskedLM
from trainables.settings.config import Beginning, Config, DataConfig, ModelConfig

# Of a bundle's config.json: what must be equal -> the setting that decides it here.
_SHAPE = {
    "model_type": "model.architecture",
    "hidden_act": "",
    "layer_norm_eps": "",
    "tie_word_embeddings": "model.embedding",
    "hidden_size": "model.hidden",
    "dim": "model.hidden",
    "hidden_dim": "model.intermediate",
    "n_layers": "model.layers",
    "n_heads": "model.heads",
    "num_hidden_layers": "model.layers",
    "num_attention_heads": "model.heads",
    "intermediate_size": "model.intermediate",
    "max_position_embeddings": "model.max_positions",
    "vocab_size": "data.tokenizer",
    "pad_token_id": "data.tokenizer",
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


@lru_cache(maxsize=64)
def _checked(begun: str, shape: str, text: str) -> list[str]:
    """Of the three sections as JSON. Once for each: a sweep asks for every corner of its space."""
    given, model = Beginning.model_validate_json(begun), ModelConfig.model_validate_json(shape)
    folder, prepared = Path(given.bundle), prepare(DataConfig.model_validate_json(text))
    received.check_bundle(folder)
    theirs = limits.json_file(folder / "config.json")
    for key, value in initialisation.described(model, prepared).items():
        if key in _SHAPE and theirs.get(key) != value:
            setting = f" ({_SHAPE[key]})" if _SHAPE[key] else ""
            raise ValueError(
                f"init_from {folder}: its {key} is {theirs.get(key)!r:.40}, here it is {value!r}{setting}: training "
                "goes on in the same architecture alone"
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
    path = Path(given.bundle) / received.WEIGHTS
    shapes, due = received.header(path), {name: tuple(value.shape) for name, value in model.exported().items()}
    if shapes != due:
        name = min(key for key in shapes.keys() | due.keys() if shapes.get(key) != due.get(key))
        raise ValueError(f"init_from: {path} has {name} of shape {shapes.get(name)}, not {due.get(name)}")
    state = limits.fails(lambda: load_file(path), f"init_from: {path} cannot be read")
    model.take(state)
