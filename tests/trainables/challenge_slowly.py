"""The challenge's rules once more, obvious and slow: one sentence and one mask at a time, sums and means by hand.

Written from the rules, and sharing nothing with the package but their constants and the draws of ties. `ours` stands
for what the rule of that name changes: ties, pieces of words that are read, and how far a sigmoid is fitted.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.special import betainc

from trainables.evaluation import rules
from trainables.noise import uniform

Floats = NDArray[np.float64]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def log_softmax_at(model: Any, ids: Sequence[int], position: int, answer: int) -> float:
    with torch.no_grad():
        given = torch.tensor([list(ids)])
        logits = model(input_ids=given, attention_mask=torch.ones_like(given)).logits
    return float(torch.log_softmax(logits[0, position].double(), -1)[answer])


def completion(model: Any, tokenizer: Any, before: str, after: str) -> tuple[float, int]:
    """(log-probability of `after`, its tokens): a token counts if it ends after the first character's place."""
    coded = tokenizer(before + after, return_offsets_mapping=True)
    total, many = 0.0, 0
    for position, (_, end) in enumerate(coded["offset_mapping"]):
        if end > len(before):
            ids = list(coded["input_ids"])
            ids[position] = tokenizer.mask_token_id
            total += log_softmax_at(model, ids, position, coded["input_ids"][position])
            many += 1
    return total, many


class Tally:
    """Items of one task, in their order, and how many were right in each group."""

    def __init__(self) -> None:
        self.items: list[tuple[str, str, list[float], int]] = []

    def add(self, group: str, scores: list[float], right: int = 0, split: str = "") -> None:
        self.items.append((split, group, scores, right))

    def shares(self, half: bool, ours: bool = False) -> dict[str, dict[str, float]]:
        """Accuracies by split and group. half: ties count as their share, as they always do in ours.

        Floats are compared, as the pipeline does; in ours numbers of twice the length.
        """
        draws = uniform(len(self.items), "ties", 0)
        found: dict[str, dict[str, list[float]]] = {}
        for draw, (split, group, scores, right) in zip(draws, self.items, strict=True):
            told = scores if ours else [float(np.float32(score)) for score in scores]
            likeliest = [option for option, score in enumerate(told) if score == max(told)]
            if half or ours:
                credit = 1 / len(likeliest) if right in likeliest else 0.0
            else:
                credit = float(likeliest[int(draw * len(likeliest))] == right)
            found.setdefault(split, {}).setdefault(group, []).append(credit)
        return {
            split: {group: sum(credits) / len(credits) for group, credits in groups.items()}
            for split, groups in found.items()
        }

    def mean(self, half: bool = False, ours: bool = False) -> float:
        means = [sum(groups.values()) / len(groups) for groups in self.shares(half, ours).values()]
        return sum(means) / len(means)


def blimp(model: Any, tokenizer: Any, folder: Path) -> Tally:
    tally = Tally()
    for path in sorted(folder.glob("*.jsonl")):
        for row in lines(path):
            scores = [completion(model, tokenizer, "", row[name])[0] for name in ("sentence_good", "sentence_bad")]
            tally.add(row["UID"] if "field" in row else path.stem, scores)
    return tally


def ewok(model: Any, tokenizer: Any, folder: Path) -> Tally:
    tally = Tally()
    for path in sorted(folder.glob("*.jsonl")):
        for row in lines(path):
            scores = [
                completion(model, tokenizer, row[context], " " + row["Target1"])[0]
                for context in ("Context1", "Context2")
            ]
            tally.add(row["Domain"], scores)
    return tally


def entity_tracking(model: Any, tokenizer: Any, folder: Path) -> Tally:
    tally = Tally()
    for path in sorted(folder.glob("*.jsonl")):
        for row in lines(path):
            if not [option for option in row["options"] if "nothing" in option]:
                scores = [completion(model, tokenizer, row["input_prefix"], option)[0] for option in row["options"]]
                tally.add(f"{path.stem}_{row['numops']}_ops", scores, split=path.stem)
    return tally


def comps(model: Any, tokenizer: Any, folder: Path) -> Tally:
    tally = Tally()
    for path in sorted(folder.glob("*.jsonl")):
        for row in lines(path):
            prefixes = row["prefix_acceptable"] + " ", row["prefix_unacceptable"] + " "
            scores = [completion(model, tokenizer, prefix, row["property_phrase"])[0] for prefix in prefixes]
            tally.add(path.stem, scores)
    return tally


def global_piqa(model: Any, tokenizer: Any, folder: Path, options: int) -> Tally:
    tally = Tally()
    for path in sorted(folder.glob("*.jsonl")):
        for row in lines(path):
            scores = []
            for number in range(options):
                total, many = completion(model, tokenizer, row["prompt"], " " + row[f"solution{number}"])
                scores.append(total / many)
            tally.add("all", scores, row["label"])
    return tally


def surprisal(model: Any, tokenizer: Any, context: str, word: str, ours: bool = False) -> float:
    """Of a word after a context, its pieces one after the other: written out and read again, or in ours as they are."""
    pieces, total = tokenizer(word, add_special_tokens=False)["input_ids"], 0.0
    if ours:
        ids = list(tokenizer(context + 3 * tokenizer.mask_token)["input_ids"])
        position = ids.index(tokenizer.mask_token_id)
        for piece in pieces:
            total -= log_softmax_at(model, ids, position, piece)
            ids.insert(position, piece)  # before the three masks
            position += 1
        return total
    for number, piece in enumerate(pieces):
        ids = tokenizer(context + 3 * tokenizer.mask_token)["input_ids"]
        position = len(ids) - 3 if ids[-1] == tokenizer.mask_token_id else len(ids) - 4
        answer = piece
        if number:
            answer = tokenizer(tokenizer.decode(piece), add_special_tokens=False)["input_ids"][0]
        total -= log_softmax_at(model, ids, position, answer)
        context += tokenizer.decode(piece)
    return total


def reading_rows(model: Any, tokenizer: Any, path: Path, ours: bool = False) -> list[dict[str, float]]:
    """The table's numbers, with surprisals; nan for what is missing."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = {
                name: float(value or "nan")
                for name, value in row.items()
                if name not in ("item", "word", "prev_item", "prev_word")
            }
            numbers["pred"] = surprisal(model, tokenizer, row["item"] or "None", row["word"], ours)
            numbers["prev_pred"] = math.nan
            if row["prev_item"]:
                numbers["prev_pred"] = surprisal(model, tokenizer, row["prev_item"], row["prev_word"], ours)
            found.append(numbers)
    return found


def share_of_the_rest(rows: list[dict[str, float]], target: str, names: Sequence[str]) -> float:
    """What `pred` adds to a regression on the names and their products, as a share of what those leave."""
    kept = [row for row in rows if not any(math.isnan(row[name]) for name in (target, *names))]
    y = np.array([row[target] for row in kept])
    columns = [[1.0 for _ in kept], *([row[name] for row in kept] for name in names)]
    for i, one in enumerate(names):
        columns += [[row[one] * row[other] for row in kept] for other in names[i + 1 :]]
    explained = []
    for more in ([], [[row["pred"] for row in kept]]):
        x = np.array(columns + more).T
        left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        explained.append(1 - float(left @ left) / float(((y - y.mean()) ** 2).sum()))
    return (explained[1] - explained[0]) / (1 - explained[0])


def reading(model: Any, tokenizer: Any, path: Path, ours: bool = False) -> tuple[float, float]:
    """(eye tracking, self-paced)."""
    rows, alone = reading_rows(model, tokenizer, path, ours), ("Subtlex_log10", "length", "context_length")
    eyes = [share_of_the_rest(rows, name, alone) for name in rules.EYE_TRACKING]
    return sum(eyes) / 4, share_of_the_rest(rows, rules.SELF_PACED, (*alone, "prev_length", "prev_pred"))


def contexts(path: Path) -> dict[str, list[str]]:
    found = json.loads(path.read_text("utf-8"))
    return {word: [each["context"] for each in given] for word, given in found.items() if len(word) > 1}


def curves(models: Sequence[Any], tokenizer: Any, path: Path) -> dict[str, list[float]]:
    """Mean surprisal of every word at every checkpoint."""
    found: dict[str, list[float]] = {}
    for word, given in contexts(path).items():
        for model in models:
            values = [-completion(model, tokenizer, context.strip() + " ", word)[0] for context in given]
            found.setdefault(word, []).append(sum(values) / len(values))
    return found


def best_sigmoid(
    x: Floats, y: Floats, low: Sequence[float], high: Sequence[float], _start: Sequence[float] = (), _most: int = 0
) -> tuple[float, ...]:
    """a, b, c, d of least squares within bounds: on a grid of b and c that narrows, a and d solved for; then Newton."""
    middle = np.array([math.sqrt(max(low[1], 1e-3) * high[1]), (low[2] + high[2]) / 2])
    spread = np.array([math.log(high[1] / max(low[1], 1e-3)) / 2, (high[2] - low[2]) / 2])
    best = (math.inf, 0.0, 0.0, 0.0, 0.0)
    for _ in range(70):
        for b in np.clip(middle[0] * np.exp(spread[0] * np.linspace(-1, 1, 11)), low[1], high[1]):
            for c in np.clip(middle[1] + spread[1] * np.linspace(-1, 1, 11), low[2], high[2]):
                best = min(best, _with_slope(x, y, float(b), float(c), low, high))
        middle, spread = np.array([best[2], best[3]]), spread * 0.75
    return _newton(x, y, best[1:], low, high)


def stopped_sigmoid(
    x: Floats, y: Floats, low: Sequence[float], high: Sequence[float], start: Sequence[float], most: int
) -> tuple[float, ...]:
    """a, b, c, d where the solver stops that the pipeline calls, with the tolerances that it leaves as they are."""
    try:
        found, _ = curve_fit(
            lambda x, a, b, c, d: a / (1 + np.exp(-b * (x - c))) + d, x, y, start, bounds=(low, high), maxfev=most
        )
    except RuntimeError:  # it does not converge: no height is crossed
        return (math.nan,) * 4
    return tuple(map(float, found))


def _with_slope(
    x: Floats, y: Floats, b: float, c: float, low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """(sum of squares, a, b, c, d) with the best a and d for a b and c."""
    s = 1 / (1 + np.exp(-b * (x - c)))
    varies = float(((s - s.mean()) ** 2).sum())
    tried = []
    if varies > 0:
        a = float(((s - s.mean()) * (y - y.mean())).sum()) / varies
        tried.append((a, float(y.mean() - a * s.mean())))
    tried += [(a, min(max(float((y - a * s).mean()), low[3]), high[3])) for a in (low[0], high[0])]
    tried += [(min(max(float(s @ (y - d)) / float(s @ s), low[0]), high[0]), d) for d in (low[3], high[3])]
    allowed = [(a, d) for a, d in tried if low[0] <= a <= high[0] and low[3] <= d <= high[3]]
    return min((float(((a * s + d - y) ** 2).sum()), a, b, c, d) for a, d in allowed)


def _newton(
    x: Floats, y: Floats, start: tuple[float, ...], low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """Some steps of Gauss and Newton, as long as they stay within bounds and do not make it worse."""

    def squares(at: Floats) -> float:
        a, b, c, d = at
        return float(((a / (1 + np.exp(-b * (x - c))) + d - y) ** 2).sum())

    now = np.array(start)
    for _ in range(50):
        a, b, c, d = now
        s = 1 / (1 + np.exp(-b * (x - c)))
        slope = s * (1 - s)
        jacobian = np.stack([s, a * slope * (x - c), -a * slope * b, np.ones_like(x)], axis=1)
        step = np.linalg.lstsq(jacobian, y - (a * s + d), rcond=None)[0]
        then = now + step
        if not (np.all(then >= low) and np.all(then <= high)) or squares(then) > squares(now) * (1 + 1e-12):
            break
        now = then
    return tuple(map(float, now))


def crossing(fit: tuple[float, ...], height: float) -> float | None:
    a, b, c, d = fit
    return c - math.log(a / (height - d) - 1) / b if d < height < a + d else None


def acquisition(
    curve_of: dict[str, list[float]], tokenizer: Any, path: Path, fit: Callable[..., tuple[float, ...]] = best_sigmoid
) -> tuple[float, float, int]:
    """(the pipeline's score, the correlation, words with both ages). fit: of the sigmoids."""
    with path.open(encoding="utf-8", newline="") as file:
        children = {row["word"]: [float(row[str(age)]) for age in range(16, 31)] for row in csv.DictReader(file)}
    seen = np.array([1e6 * millions for millions in (*range(1, 10), *range(10, 101, 10))])
    logs, ages, both = np.log10(seen + 1), np.arange(16.0, 31.0), []
    for word, surprisals in curve_of.items():
        if word not in children:
            continue
        shares, bounds = np.array(children[word]), ((0, 0, 16, -0.5), (2, 1, 30, 0.5))
        child = crossing(fit(ages, shares, *bounds, (1, 0.1, 23, 0), 1000), 0.5)
        if child is None or not 16 <= child <= 30:
            continue
        many = len(tokenizer("The " + word, add_special_tokens=False)["input_ids"])
        many -= len(tokenizer("The", add_special_tokens=False)["input_ids"])
        chance = max(1, many) * math.log(tokenizer.vocab_size)
        y = -np.array(surprisals)
        wide = float(np.ptp(y))
        low, high = (0, 0, logs[0] - 1, y.min() - 2 * wide - 1), (10 * wide + 1, 100, logs[-1] + 1, y.max() + 1)
        if wide == 0:
            continue
        start = (wide, 1, logs.mean(), y.min())
        found = crossing(fit(logs, y, low, high, start, 20_000), -(chance + min(surprisals)) / 2)
        if found is not None and logs[0] <= found <= logs[-1]:
            both.append((found, child))
    if len(both) < 3:
        return 0.0, 0.0, len(both)
    one, other = (np.array(column) - np.mean(column) for column in zip(*both, strict=True))
    r = float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))
    p = float(betainc((len(both) - 2) / 2, 0.5, 1 - r * r))
    return (r if p <= 0.1 else 0.0), r, len(both)
