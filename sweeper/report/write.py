"""Writes a run's reports into its folder: report.md, report.html, results.csv, LaTeX and figures for a paper.

Made from `spec.yaml` and `journal.jsonl` alone, at a sweep's end or by `python -m sweeper.report RUN_DIR`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from sweeper.journal import records, run_folders
from sweeper.journal.journal import Journal
from sweeper.journal.names import Names
from sweeper.report import methods, sections, setup, tables
from sweeper.report.html import page
from sweeper.report.html.gallery import gallery
from sweeper.report.sections import Outcome
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.tracking.store import store_uri


def texts(spec: SweepSpec, journal: Journal, outcome: Outcome) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, function that writes it) of each report: as a whole or not at all, each apart from the others."""
    made: dict[str, Callable[[], str]] = {
        "report.md": lambda: sections.markdown(spec, journal, outcome),
        "report.html": lambda: page.page(spec, journal, outcome, importance_of(spec, journal)),
        "results.csv": lambda: tables.results_csv(spec, journal),
        "table.tex": lambda: tables.verdict_tex(journal.verdict(), _names(spec, journal)),
        "setup.tex": lambda: setup.tex(spec, journal),
        "methods.tex": lambda: methods.tex(spec, journal),
    }
    assert tuple(made) == run_folders.REPORTS
    # Plotly takes any pandas that it sees, and the tracker's thread may be half way through importing it with MLflow:
    # an import here waits for that one.
    import_module("pandas")
    for name, text in made.items():
        yield name, lambda name=name, text=text: files.put(outcome.run_dir / name, text())
    yield run_folders.FIGURES, lambda: _figures(spec, journal, outcome)


def write_all(spec: SweepSpec, journal: Journal, outcome: Outcome) -> list[Path]:
    """Write the reports; their paths, the last one that of the folder of figures."""
    for _, write in texts(spec, journal, outcome):
        write()
    return [outcome.run_dir / name for name in (*run_folders.REPORTS, run_folders.FIGURES)]


def _figures(spec: SweepSpec, journal: Journal, outcome: Outcome) -> None:
    """The figures as SVG and PDF. files.Unsafe, in one line, if their folder is a link."""
    from sweeper.report import printed  # with Matplotlib, which takes a second

    files.inside(outcome.run_dir, run_folders.FIGURES).mkdir(exist_ok=True)
    for name, content in printed.files(gallery(spec, journal, importance_of(spec, journal))):
        files.put(files.inside(outcome.run_dir, run_folders.FIGURES, name), content)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 2 no run that can be read."""
    files.standard_streams()
    files.private()
    files.at_home()
    parser = files.Parser(prog="python -m sweeper.report", description="Write a run's reports anew.")
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--trust-record", action="store_true", help="read a record that was changed since it was written"
    )
    try:
        args = parser.parse_args(argv)
        run_dir = args.run_dir.resolve()
        if not (run_dir / "journal.jsonl").is_file():
            raise ValueError(f"{run_dir}: not a run folder, it has no journal.jsonl")
        spec, journal = run_folders.opened(run_dir, args.trust_record)
        files.private(spec.shared)
        for path in write_all(spec, journal, _outcome(spec, journal, run_dir)):
            files.emit(str(path))
    except (ValueError, OSError) as error:
        return files.refused(error)
    return 0


def _outcome(spec: SweepSpec, journal: Journal, run_dir: Path) -> Outcome:
    best = records.best(spec, journal.trials.values())
    bundle = files.inside(run_dir, "bundles", best.id) if best else run_dir
    kept = bundle if best and bundle.is_dir() else None
    return Outcome(run_dir=run_dir, tracking_uri=store_uri(spec, run_dir.parent), bundle=kept)


def _names(spec: SweepSpec, journal: Journal) -> Names:
    return Names(spec, (record.ask for record in journal.trials.values()))


def importance_of(spec: SweepSpec, journal: Journal) -> dict[str, float]:
    """The importance of the settings that a search varied; without any, Optuna need not load."""
    if not spec.space:
        return {}
    from sweeper.search.optuna_study import importance

    return importance(spec, journal)
