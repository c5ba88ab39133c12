"""A bundle as a model that MLflow's own commands load: a file `MLmodel` beside it names this module.

Nothing is unpickled: weights are safetensors, and what builds the model is transformers' own code for its type.
MLflow calls `_load_pyfunc`; so does `mlflow models predict --env-manager local`, where sweeper is installed.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

FILE = "MLmodel"
FOLDER = "bundle"
TOP = 5  # words for a gap


def description(run_id: str, at: str) -> str:
    """The text of `MLmodel`, without a signature. run_id: MLflow's run. at: when it was made, as ISO 8601."""
    from mlflow.models import Model

    model = Model(artifact_path=FOLDER, run_id=run_id, utc_time_created=at)
    model.add_flavor("python_function", loader_module=__name__, python_version=platform.python_version())
    return model.to_yaml()


class FillMask:
    """A bundle that fills gaps: `predict` takes texts, each with the tokenizer's mask token."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer, FillMaskPipeline

        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        model = AutoModelForMaskedLM.from_pretrained(str(folder), use_safetensors=True, **own)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **own)
        self._fill = FillMaskPipeline(model=model, tokenizer=tokenizer)

    def predict(self, model_input: Any) -> list[Any]:
        """For each text the likeliest words for its gap, as transformers' pipeline gives them.

        model_input: a list of texts, or a DataFrame whose first column holds them.
        """
        rows = model_input.iloc[:, 0].tolist() if hasattr(model_input, "iloc") else model_input
        return [self._fill(str(row), top_k=TOP) for row in rows]


def _load_pyfunc(data_path: str) -> FillMask:
    """What MLflow calls with the bundle's folder. Raises ValueError, in one line, for a bundle of another kind."""
    folder = Path(data_path)
    config = folder / "config.json"
    kinds = json.loads(config.read_text("utf-8")).get("architectures") if config.is_file() else None
    if not any(str(kind).endswith("ForMaskedLM") for kind in kinds or ()):
        raise ValueError(f"{folder} holds no masked language model that transformers knows: read its files yourself")
    return FillMask(folder)
