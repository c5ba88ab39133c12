"""What is read, written and printed in a locale that is not UTF-8 is the same as in one that is.

`pytest -m slow tests/test_locale.py`, which .ci/run calls, has a good part of the suite and a sweep run in one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainables.mlm import CLOCK

ROOT = Path(__file__).parents[1]
BEYOND = "größer → Модель 模型 ▁x"  # the first word is in Latin-1, the others are not
PART = """
test_contracts sweeper/spec/test_spec sweeper/system/test_yaml_reader sweeper/journal/test_journal
sweeper/report/test_sections sweeper/report/test_page sweeper/test_status sweeper/system/test_files
sweeper/confirmation/test_design sweeper/report/test_tables sweeper/journal/test_provenance sweeper/plan/test_estimate
trainables/data/test_corpus trainables/data/test_batches trainables/data/test_tokenizer
trainables/evaluation/test_glue trainables/evaluation/test_minimal_pairs trainables/test_evaluate
trainables/data/test_words_seen
"""

TRAIN = """
import sys
from pathlib import Path
from trainables import mlm
from trainables.data import wordpiece
folder = Path(sys.argv[1])
pieces = "Мо дель сло во größ ere Maß Ελ λά δα 模 型 ба не лу ти ро ка".split()
words = [a + b for a in pieces for b in pieces]
lines = [" ".join(words[(n * n + 7 * i) % len(words)] for i in range(12)) for n in range(200)]
wordpiece.Trained(200).obtain(lines).save(folder / "words")
(folder / "text.txt").write_text("\\n\\n".join(lines), "utf-8")
settings = ["data.block=16", "data.held_out=0.2", "model.hidden=16", "model.layers=1", "model.heads=2", "steps=60",
    "model.intermediate=16", "model.max_positions=16", "batch_size=8", "masking.update_every=1", "report_every=30",
    f"data.corpus=files:{folder}/text.txt", f"data.tokenizer={folder}/words"]
given = [part for setting in settings for part in ("--set", setting)]
sys.exit(mlm.main([*given, "--threads", "1", "--output", str(folder / "out")]))
"""

TELL = """
import sys
from pathlib import Path
from sweeper import status
from sweeper.journal import run_folders
from sweeper.journal.journal import Journal
from sweeper.report import write
from sweeper.spec.load import load
from tests.sweeper.samples import ask, end, report, session, toy_spec
folder, said = Path(sys.argv[1]), Path(sys.argv[2]).read_text("utf-8")
arms = {"baseline": {"shares": {"random": 1, "token": 0, "trigram": 0}}}
spec = toy_spec(question=said, search={"method": "random", "trials": 1}, arms=arms)
run = run_folders.new(folder, spec)
journal = Journal(run / "journal.jsonl")
for event in (session(), ask(spec, 1, 1, "baseline"), report(1, 20, 1.5, 2), end(1, "failed", 3, said)):
    journal.append(event)
(run / run_folders.LOCK).touch()
assert load(run / run_folders.SPEC) == spec
assert run_folders.find_run(folder, spec, run_folders.NEWEST) == run
assert write.main([str(run)]) == 0
assert said in (run / "report.md").read_text("utf-8")
sys.exit(status.main([str(run)]))
"""


@pytest.fixture(scope="session")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a locale in Latin-1; in ASCII on a machine where none can be made."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    own |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "HF_HUB_OFFLINE": "1"}
    made = tmp_path_factory.mktemp("locale")
    try:
        command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", made / "de_DE.ISO-8859-1"]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return own | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return own | {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(made)}


def ran(environment: dict[str, str], folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Of this Python, in a folder; its cache lies there, too."""
    environment = environment | {"SWEEPER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True)


def test_the_locale_is_not_utf8(latin: dict[str, str], tmp_path: Path) -> None:
    code = "import locale, sys; print(locale.getpreferredencoding(False), sys.getfilesystemencoding())"
    assert b"utf" not in ran(latin, tmp_path, "-c", code).stdout.lower()


def test_a_run_ends_with_the_bundle_that_it_has_in_utf8(latin: dict[str, str], tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for folder, environment in ((there, latin), (here, dict(os.environ) | {"PYTHONPATH": latin["PYTHONPATH"]})):
        folder.mkdir()
        (folder / "train.py").write_text(TRAIN, "utf-8")
        done = ran(environment, folder, "train.py", ".")
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    written: Sequence[Path] = sorted(path.relative_to(here) for path in (here / "out").rglob("*") if path.is_file())
    texts = [path for path in written if path.suffix in (".json", ".jsonl", ".md", ".yaml", ".csv")]
    assert any(re.search("[а-я]", (here / path).read_text("utf-8")) for path in texts if path.name != "tokenizer.json")
    assert len(texts) > 5
    for path in (path for path in written if path.name not in ("metadata.json", CLOCK)):  # which have times and places
        assert (there / path).read_bytes() == (here / path).read_bytes(), path


def test_a_sweeps_spec_and_report_are_found_and_shown(latin: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL, "utf-8")
    (tmp_path / "said").write_text(BEYOND, "utf-8")
    done = ran(latin, tmp_path, "tell.py", "runs", "said")
    assert done.returncode == 1, done.stderr.decode("utf-8", "replace")  # as of a sweep whose trials all failed
    encoding = "latin-1" if "LOCPATH" in latin else "ascii"
    assert BEYOND.encode(encoding, "backslashreplace") in done.stdout, done.stderr.decode("utf-8", "replace")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_part_of_the_suite(latin: dict[str, str], tmp_path: Path) -> None:
    tests = [str(ROOT / "tests" / f"{name}.py") for name in PART.split()]
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"))
    done = ran(latin, tmp_path, "-m", "pytest", *options, *tests)
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-4000:]


@pytest.mark.slow
def test_a_sweep_is_gone_on_with(latin: dict[str, str], tmp_path: Path) -> None:
    spec = {
        "name": "umlaut", "question": BEYOND, "trainable": "trainables.toy:train",
        "space": {"x": {"uniform": [0, 1]}}, "arms": {"baseline": {"x": 0.5}},
        "search": {"method": "random", "trials": 1}, "seeds": {"search": [1]},
    }  # fmt: skip
    from sweeper.system import yaml_reader

    (tmp_path / "umlaut.yaml").write_text(yaml_reader.dump(spec), "utf-8")
    for more in ((), ("--resume",)):
        done = ran(latin, tmp_path, "-m", "sweeper.run", "umlaut.yaml", "--storage", "runs", *more)
        assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    runs = list((tmp_path / "runs").glob("umlaut-*"))
    assert len(runs) == 1
    assert BEYOND in (runs[0] / "report.md").read_text("utf-8")
