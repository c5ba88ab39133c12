"""ENTRY.md: the checklist, the form's answers and the scores for people, and the commands that hand the entry in."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.system.markdown import code, table, text
from trainables.entry.checklist import Item
from trainables.entry.form import Answer
from trainables.entry.runs import Chosen
from trainables.evaluation import hub, rules

if TYPE_CHECKING:
    from trainables.evaluation.official import Official

MAIN = "main"
TITLES = {"there": "There", "missing": "Missing", "person": "For a person"}


def scores(judged: Official | None) -> dict[str, float | None]:
    """By the columns of the leaderboard, as it shows them; empty if nothing was judged."""
    if judged is None:
        return {}
    return {
        rules.COLUMNS[key]: None if column is None else 100 * column.score for key, column in judged.columns.items()
    }


def source(judged: Official | None) -> str | None:
    """The repository and commit of the data; None for a folder of this machine, whose name says nothing elsewhere."""
    return judged.origin if judged and judged.origin.startswith(hub.HUB) else None


def page(chosen: Chosen, answers: Sequence[Answer], listed: Sequence[Item], judged: Official | None) -> str:
    """ENTRY.md: checklist, form, scores, and the commands."""
    parts = [f"# An entry of {text(chosen.name)} for BabyLM {rules.YEAR}, strict-small"]
    for state, title in TITLES.items():
        lines = [
            f"- [{'x' if state == 'there' else ' '}] {text(each.what)}: {text(each.note)}"
            for each in listed
            if each.state == state
        ]
        parts += [f"## {title}\n\n" + "\n".join(lines)] if lines else []
    parts.append("## The form\n\n" + "\n".join(map(_line, answers)))
    if judged is not None:
        scored = [[name, "" if value is None else f"{value:.2f}"] for name, value in scores(judged).items()]
        parts.append("## Scores\n\n" + table(["column", "score"], scored, left=("column",)))
        parts += [f"On the data of {code(where)}."] if (where := source(judged)) else []
    return "\n\n".join([*parts, _push(chosen), _pipeline(chosen)]) + "\n"


def _line(answer: Answer) -> str:
    """A line of the form; numbers stand as the form wants them."""
    value = "not on record" if answer.value is None else text(str(answer.value))
    return f"- {text(answer.question)}: **{value}**{f' ({text(answer.note)})' if answer.note else ''}"


def _push(chosen: Chosen) -> str:
    """How to push every revision as a branch, without a script."""
    own = shlex.quote(chosen.name)
    commands = ["hf auth login", "hf repos create OWNER/NAME", f"hf upload OWNER/NAME {MAIN}/{own} ."]
    for name in chosen.series:
        commands.append(f"hf repos branch create OWNER/NAME {name}")
        commands.append(f"hf upload OWNER/NAME {name}/{own} . --revision {name}")
    return (
        "## How to push it\n\nIn this folder, with your repository in place of OWNER/NAME (`pip install "
        "huggingface_hub` brings `hf`):\n\n" + "\n".join(f"    {command}" for command in commands)
    )


def _pipeline(chosen: Chosen) -> str:
    """How the challenge's own scripts evaluate it on this machine."""
    example = next(iter(chosen.series), "chck_1M")
    return (
        "## The challenge's own pipeline, here\n\ntransformers ignores a revision's name where it is given a folder. "
        "So give the pipeline each revision by its own folder, and its name as well: results are filed under the "
        f"folder's last name, {code(chosen.name)}, the same in all, and under the revision. The fast evaluation "
        f"of one takes {code(f'ENTRY/{example}/{chosen.name}')}, {code(example)} and the backend `mlm`; the full "
        f"evaluation and fine-tuning take {code(f'ENTRY/{MAIN}/{chosen.name}')}."
    )
