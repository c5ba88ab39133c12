"""Every masking rule does what its slow and obvious version does; tests/oracles.py prints the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tests import oracles
from tests.oracles import AMLMS, CMSES, CODES, MORPHS, MOVING, TEXTS
from tests.trainables.drawn import DRAWS, Compared
from tests.trainables.laboratory import LABORATORY
from trainables.data import batches

OFTEN = ("accuracy-morph", "amlm hard", "amlm soft", "entropy", "learning_progress", "easy_to_hard")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[batches.Prepared]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield oracles.prepared_slice(tmp_path_factory.mktemp("slice"))


def names(of: dict[str, object]) -> list[object]:
    """The published rules always, their variants on demand."""
    return [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in of]


def check(rows: list[Compared]) -> None:
    assert rows
    assert [row for row in rows if not row.held] == []


@pytest.mark.parametrize("name", names({**MORPHS}))
def test_counts_and_scores_after_1000_batches(name: str, prepared: batches.Prepared) -> None:
    settings, slow = MORPHS[name]
    check(oracles.morph(name, settings, slow(), prepared))


@pytest.mark.parametrize("name", names({**MOVING}))
def test_other_signals_and_changing_constants_after_every_refresh(name: str, prepared: batches.Prepared) -> None:
    settings, slow = MOVING[name]
    check(oracles.moving(name, settings, slow, prepared))


@pytest.mark.parametrize("name", CMSES)
def test_cms_morph_after_each_of_40_batches_from_the_end_of_the_warmup(name: str, prepared: batches.Prepared) -> None:
    check(oracles.cms(name, CMSES[name], prepared))


@pytest.mark.slow
def test_frequency_weights_of_1000_batches(prepared: batches.Prepared) -> None:
    check(oracles.frequency(prepared))


@pytest.mark.parametrize("name", names({**AMLMS}))
def test_amlm_weights_after_each_of_5_updates(name: str, prepared: batches.Prepared) -> None:
    check(oracles.weights(name, AMLMS[name], prepared))


@pytest.mark.parametrize("name", CODES)
def test_amlms_code_through_five_updates(name: str, prepared: batches.Prepared) -> None:
    check(oracles.code(name, CODES[name], prepared, update_every=20))


def test_loss_weights_after_each_of_6_refreshes(prepared: batches.Prepared) -> None:
    check(oracles.loss_weights(prepared))


# Relevance is held to the same slow version on made-up text by test_collocations.py.
@pytest.mark.parametrize("name", ["collocations", pytest.param("relevance", marks=pytest.mark.slow)])
def test_what_is_counted_in_the_text(name: str, prepared: batches.Prepared) -> None:
    check(TEXTS[name](prepared))


def test_every_text_is_compared() -> None:
    assert {*TEXTS} == {"collocations", "relevance"}


@pytest.mark.parametrize("compare", [*DRAWS, *LABORATORY], ids=lambda compare: compare.__name__)
def test_draws(compare: Callable[[], list[Compared]]) -> None:
    check(compare())
