"""What a bundle says of the code that made it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trainables.training import bundle


def test_the_code_fingerprint_covers_every_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(bundle.__file__).parents[1]
    shutil.copytree(package, tmp_path / "trainables", ignore=shutil.ignore_patterns("__pycache__"))
    own = bundle.code_fingerprint()
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "trainables" / "training" / "bundle.py"))
    assert bundle.code_fingerprint() == own
    for path in ("noise.py", "masking/sources.py", "training/bundle.py"):
        before = bundle.code_fingerprint()
        with (tmp_path / "trainables" / path).open("a", encoding="utf-8") as file:
            file.write("\n# changed\n")
        assert bundle.code_fingerprint() != before, path
