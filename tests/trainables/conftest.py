"""What tests of training share: a text with a grammar, and a cache of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainables.one_by_one import fit, make_bundle
from tests.trainables.texts import sentences
from tests.trainables.tiny import write_corpus
from trainables.data.wordpiece import Trained


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny `BertForMaskedLM` after some steps on made-up sentences; to be read only."""
    text = sentences(320)
    folder = make_bundle(tmp_path_factory.mktemp("scored") / "bundle", Trained(300).obtain(text))
    fit(folder, text, steps=8)
    (folder / "training_config.yaml").write_text("data:\n  block: 16\n", "utf-8")
    return folder


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
