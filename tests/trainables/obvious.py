"""The published rules, slow and obvious: loops and dictionaries, written from the papers' rules, not from the code."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

Probabilities = dict[frozenset[int], float]


def key_of(token: str) -> str:
    lower = token.lower()
    return lower[2:] if lower.startswith("##") else lower


@cache
def trigrams_of(token: str) -> list[str]:
    text = key_of(token)
    bracketed = text.startswith("[") and text.endswith("]")
    letters = sum(character.isalpha() for character in text)
    if bracketed or letters < 2:
        return []
    marked = "<" + text + ">"
    return [marked[i] + marked[i + 1] + marked[i + 2] for i in range(len(marked) - 2)]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between the two nearest."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


class Morph:
    """Counts and scores of Accuracy-Morph."""

    def __init__(self, decay: float, smoothing: float, min_seen: float, cap: float) -> None:
        self.decay, self.a, self.min_seen, self.cap = decay, smoothing, min_seen, cap
        self.seen: dict[str, float] = {}
        self.hard: dict[str, float] = {}
        self.window_seen: Counter[str] = Counter()
        self.window_hard: Counter[str] = Counter()

    def observe(self, tokens: Sequence[str], right: Sequence[bool]) -> None:
        for token, is_right in zip(tokens, right, strict=True):
            hard = not is_right
            for key in ["token " + key_of(token)] + ["trigram " + trigram for trigram in trigrams_of(token)]:
                self.window_seen[key] += 1
                self.window_hard[key] += hard

    def refresh(self) -> None:
        for counts, window in ((self.seen, self.window_seen), (self.hard, self.window_hard)):
            for key in {*counts, *window}:
                counts[key] = self.decay * counts.get(key, 0.0) + window[key]
            window.clear()

    def _score(self, key: str) -> float:
        seen, hard = self.seen.get(key, 0.0), self.hard.get(key, 0.0)
        return 0.0 if seen < self.min_seen else min((hard + self.a) / (seen + 2 * self.a), self.cap)

    def token_score(self, token: str) -> float:
        return self._score("token " + key_of(token))

    def trigram_score(self, token: str) -> float:
        scores = [self._score("trigram " + trigram) for trigram in trigrams_of(token)]
        positive = [score for score in scores if score > 0]
        return min(mean(positive), self.cap) if positive else 0.0


class Entropies(Morph):
    """A key's mean entropy over ln V, by the counting of Accuracy-Morph."""

    def __init__(self, size: int, decay: float, min_seen: float, cap: float) -> None:
        super().__init__(decay, 0.0, min_seen, cap)
        self.size = size

    def observe_values(self, tokens: Sequence[str], values: Sequence[float]) -> None:
        for token, entropy in zip(tokens, values, strict=True):
            for key in ["token " + key_of(token)] + ["trigram " + trigram for trigram in trigrams_of(token)]:
                self.window_seen[key] += 1
                self.window_hard[key] += entropy  # pyright: ignore[reportArgumentType]

    def _score(self, key: str) -> float:
        seen = self.seen.get(key, 0.0)
        if seen == 0 or seen < self.min_seen:
            return 0.0
        return min(self.hard[key] / seen / math.log(self.size), self.cap)


class Progress(Entropies):
    """By how much a key's mean loss fell from the windows before to the last one that saw it, over ln V.

    The windows that saw a key are all kept, each as the losses in it.
    """

    def __init__(self, size: int, decay: float, min_seen: float, cap: float) -> None:
        super().__init__(size, decay, min_seen, cap)
        self.now: dict[str, list[float]] = {}
        self.windows: dict[str, list[list[float]]] = {}

    def observe_values(self, tokens: Sequence[str], values: Sequence[float]) -> None:
        for token, loss in zip(tokens, values, strict=True):
            for key in ["token " + key_of(token)] + ["trigram " + trigram for trigram in trigrams_of(token)]:
                self.now.setdefault(key, []).append(loss)

    def refresh(self) -> None:
        for key, losses in self.now.items():
            self.windows.setdefault(key, []).append(losses)
        self.now = {}

    def _score(self, key: str) -> float:
        *before, last = self.windows.get(key, [[]])
        weights = [self.decay**age for age in range(len(before))][::-1]
        seen = sum(weight * len(losses) for weight, losses in zip(weights, before, strict=True))
        if min(seen, len(last)) < max(self.min_seen, 1):
            return 0.0
        total = sum(weight * math.fsum(losses) for weight, losses in zip(weights, before, strict=True))
        return min(max(0.0, total / seen - mean(last)) / math.log(self.size), self.cap)


def of_moment(points: Sequence[tuple[float, float]], done: int, steps: int, gradual: bool) -> float:
    """What a constant is after so many steps: that of the last point before, or on the line to the next one."""
    value = points[0][1]
    for (begin, first), (end, second) in itertools.pairwise(points):
        if gradual and begin * steps <= done < end * steps:
            return first + (second - first) * (done - begin * steps) / ((end - begin) * steps)
        if done >= end * steps:
            value = second
    return value


def rarity_weights(frequency: Sequence[float], power: float) -> list[float]:
    """The rank by frequency over their number, to the power; tokens of one frequency share the mean of their ranks."""
    weights = []
    for own in frequency:
        above, alike = sum(other > own for other in frequency), sum(other == own for other in frequency)
        weights.append(((above + (alike + 1) / 2) / len(frequency)) ** power)
    return weights


class Cms:
    """Counts and scores of CMS-Morph, made when its warm-up has ended: nothing is counted before.

    A position whose loss reaches the batch's 75th percentile adds 1 for its token and 1 for each of its trigrams. The
    next batch goes by that already.
    """

    def __init__(self, cap: float) -> None:
        self.cap = cap
        self.counts: Counter[str] = Counter()

    def batch(self, tokens: Sequence[str], losses: Sequence[float]) -> None:
        limit = quantile(losses, 0.75)
        for token, loss in zip(tokens, losses, strict=True):
            if loss >= limit:
                self.counts["token " + key_of(token)] += 1
                for trigram in trigrams_of(token):
                    self.counts["trigram " + trigram] += 1

    def token_score(self, token: str) -> float:
        return min(math.log(1 + self.counts["token " + key_of(token)]), self.cap)

    def trigram_score(self, token: str) -> float:
        """Of all its trigrams, as often as they are in it, also those that have no count; the mean is capped alone."""
        scores = [math.log(1 + self.counts["trigram " + trigram]) for trigram in trigrams_of(token)]
        return min(mean(scores), self.cap) if scores else 0.0


def row_parts(eligible: int, random_share: float, token_share: float) -> tuple[int, int, int]:
    """How many of a row's positions go to random, token and trigram: trigrams have what the roundings leave."""
    masked = round(0.15 * eligible)
    by_token, by_random = round(token_share * masked), round(random_share * masked)
    return by_random, by_token, masked - by_token - by_random


def frequency_weights(batch: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """By token, its own weight and its trigrams' mean weight, of the counts in a batch."""
    tokens = Counter(key_of(token) for token in batch)
    trigrams = Counter(trigram for token in batch for trigram in trigrams_of(token))

    def weight(count: int) -> float:
        return 0.25 if count >= 8 else 2.0 if 2 <= count <= 5 else 1.0

    own = {token: weight(tokens[key_of(token)]) for token in set(batch)}
    parts = {token: [weight(trigrams[trigram]) for trigram in trigrams_of(token)] for token in set(batch)}
    return own, {token: mean(weights) if weights else 0.0 for token, weights in parts.items()}


class Amlm:
    """AMLM's weights by vocabulary id, as its paper has them; its code's peculiarities one by one."""

    def __init__(self, size: int, rate: float, decay: float, soft: bool, **options: float) -> None:
        self.size, self.rate, self.decay, self.soft = size, rate, decay, soft
        self.floor, self.pseudo = options.get("floor", 0.0), options.get("pseudo_count", 0.0)
        self.renormalise = bool(options.get("renormalise", False))
        self.weight = [rate] * size
        self.answers: dict[int, list[float]] = {}

    def observe(
        self, ids: Sequence[int], right: Sequence[bool], losses: Sequence[float], masked: Sequence[bool]
    ) -> None:
        for token, is_right, loss, is_masked in zip(ids, right, losses, masked, strict=True):
            if not self.soft:
                self.answers.setdefault(token, []).append(float(is_right))
            elif is_masked:
                self.answers.setdefault(token, []).append(loss)

    def _scores(self) -> list[float]:
        if not self.soft:
            seen = [self.answers.get(token, []) for token in range(self.size)]
            return [(sum(right) + 0.5) / (len(right) + 1) for right in seen]
        unknown, losses = math.log(self.size), []
        for token in range(self.size):
            known = self.answers.get(token, [])
            if self.pseudo:
                losses.append((unknown + math.fsum(known)) / (1 + len(known)))
            else:
                losses.append(mean(known) if known else unknown)
        low, high = min(losses), max(losses)
        return [1 - (loss - low) / (high - low) for loss in losses]

    def refresh(self) -> None:
        new = []
        for old, score in zip(self.weight, self._scores(), strict=True):
            new.append(max(self.decay * old + (1 - self.decay) * self.rate * (1 - score), self.floor))
        if self.renormalise:
            average = mean(new)
            new = [weight * self.rate / average for weight in new]
        self.weight = new
        self.answers.clear()


class AmlmCode:
    """AMLM as its code does it: when, with which weights, with which probabilities of a row."""

    FLOOR, OLD = 0.005, 0.2

    def __init__(self, size: int, soft: bool, decays: bool, steps: int, every: int = 200) -> None:
        self.size, self.soft, self.decays, self.steps, self.every = size, soft, decays, steps, every
        self.weight = [self.rate(0)] * size
        self.number, self.right, self.loss = [0] * size, [0] * size, [0.0] * size

    def rate(self, step: int) -> float:
        """Of the step of that number, from 0: a decay does not come to its end."""
        return 0.40 - (0.40 - 0.15) * step / self.steps if self.decays else 0.15

    def batch(
        self, step: int, ids: Sequence[int], right: Sequence[bool], losses: Sequence[float], masked: Sequence[bool]
    ) -> bool:
        """Take in a step's answers; whether new weights were made of them: after steps 201, 401, ..."""
        for token, is_right, loss, is_masked in zip(ids, right, losses, masked, strict=True):
            if is_masked or not self.soft:
                self.number[token] += 1
                self.right[token] += is_right
                self.loss[token] += loss
        done = step + 1
        if done < 2 or (done - 1) % self.every:
            return False
        prior = math.log(self.size)
        means = [(prior + loss) / (1 + number) for loss, number in zip(self.loss, self.number, strict=True)]
        for token in range(self.size):
            if self.soft:
                score = 1 - (means[token] - min(means)) / (max(means) - min(means))
            else:
                score = (self.right[token] + 0.5) / (self.number[token] + 1)
            new = self.OLD * self.weight[token] + (1 - self.OLD) * self.rate(step) * (1 - score)
            self.weight[token] = max(new, self.FLOOR)
        scale = self.rate(step) / mean(self.weight)
        self.weight = [weight * scale for weight in self.weight]
        self.number, self.right, self.loss = [0] * self.size, [0] * self.size, [0.0] * self.size
        return True

    def chances(self, row: Sequence[int], step: int) -> list[float]:
        """Of every position, special tokens too; what is above 1 is lost."""
        average = mean([self.weight[token] for token in row])
        return [min(1.0, self.weight[token] * self.rate(step) / average) for token in row]


def inclusion(weights: Sequence[float], due: float) -> list[float]:
    """Scaled to `due` in all; what exceeds 1 is spread over the others, again and again."""
    chances = [weight * due / sum(weights) for weight in weights]
    full: set[int] = set()
    while any(chance > 1 for chance in chances):
        full |= {i for i, chance in enumerate(chances) if chance >= 1}
        rest = sum(weight for i, weight in enumerate(weights) if i not in full)
        scale = (due - len(full)) / rest
        chances = [1.0 if i in full else weight * scale for i, weight in enumerate(weights)]
    return chances


def sequential(stages: Sequence[tuple[Sequence[float], int]], free: frozenset[int]) -> Probabilities:
    """The sets that draws without replacement give, stage after stage of (weights, number), and how probable each is.

    Each draw takes a position with a probability proportional to its weight among those that are left.
    """
    result: dict[tuple[frozenset[int], frozenset[int]], float] = {(frozenset(), free): 1.0}
    for weights, number in stages:
        for _ in range(number):
            after: dict[tuple[frozenset[int], frozenset[int]], float] = {}
            for (taken, left), chance in result.items():
                total = sum(weights[i] for i in left)
                for i in left:
                    state = (taken | {i}, left - {i})
                    after[state] = after.get(state, 0.0) + chance * weights[i] / total
            result = after
    by_set: Probabilities = {}
    for (taken, _), chance in result.items():
        by_set[taken] = by_set.get(taken, 0.0) + chance
    return by_set


def words_of(tokens: Sequence[str]) -> list[list[int]]:
    """Places of each word's pieces; what continues a word of the row before is one, too."""
    words: list[list[int]] = []
    for place, token in enumerate(tokens):
        if token.startswith("##") and words:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def cut_chance(tokens: Sequence[str], number: int) -> float:
    """How often the words that come first do not add up to the number."""
    orders = list(itertools.permutations(map(len, words_of(tokens))))
    return sum(number not in itertools.accumulate(order) for order in orders) / len(orders)


def whole_words(tokens: Sequence[str], number: int) -> Probabilities:
    """Every order of the row's words is equally likely; whole words are taken until one must be cut to fit."""
    return whole_units(words_of(tokens), number)


def whole_units(units: Sequence[Sequence[int]], number: int) -> Probabilities:
    """The same of units of a row, each as its places."""
    by_set: Probabilities = {}
    for order in itertools.permutations(units):
        taken = frozenset([place for unit in order for place in unit][:number])
        by_set[taken] = by_set.get(taken, 0.0) + 1 / math.factorial(len(units))
    return by_set


def span_length(draw: random.Random, p: float = 0.2, longest: int = 10) -> int:
    """Geometric, drawn again until it is at most the longest (SpanBERT's mean: 3.8)."""
    while True:
        length = 1
        while draw.random() >= p:
            length += 1
        if length <= longest:
            return length


def spans(length: int, number: int, draw: random.Random, p: float = 0.2, longest: int = 10) -> list[int]:
    """Spans from starts in random order, each taken but for what earlier ones took, the last one cut to fit."""
    taken: list[int] = []
    for start in draw.sample(range(length), length):
        for place in range(start, min(start + span_length(draw, p, longest), length)):
            if place not in taken:
                taken.append(place)
            if len(taken) == number:
                return taken
    return taken


def rate_at(kind: str, step: int, steps: int, begin: float, end: float, parts: Sequence[tuple[float, float]]) -> float:
    """Of a step, counted from 0: the first has the begin, the last the end."""
    if kind == "step":
        now = 0.0
        for since, rate in parts:
            if step >= round(since * steps):
                now = rate
        return now
    through = step / (steps - 1)
    if kind == "linear":
        return (1 - through) * begin + through * end
    if kind == "cosine":
        return (begin + end) / 2 + (begin - end) / 2 * math.cos(through * math.pi)
    return begin * end / (through * begin + (1 - through) * end)


def row_totals(kind: str, times: Sequence[float], total: int, start: float) -> list[int]:
    """Rows lie side by side on a line as long as the total, each as long as its rate is high; marks lie 1 apart."""
    lengths = [t if kind == "uniform" else math.cos(t * math.pi / 2) for t in times]
    scale = total / math.fsum(lengths)
    marks, counts, begin = [n - start for n in range(1, total + 1)], [], 0.0
    for length in lengths:
        end = begin + length * scale
        counts.append(sum(begin < mark <= end for mark in marks))
        begin = end
    return counts


def corrupted_chance(eligible: Sequence[int], predicted: Sequence[int], number: int) -> tuple[list[float], list[float]]:
    """By row, the chances that a predicted position is corrupted, and that another one is that may be predicted."""
    every = sum(predicted)
    if number <= every:
        return [number / every] * len(eligible), [0.0] * len(eligible)
    free = sum(eligible) - every
    return [1.0] * len(eligible), [(number - every) / free] * len(eligible)


def loss_weight(score: float, scores: dict[str, float], chances: dict[str, float], share: float) -> float:
    """Of a token with that score; the mean is that of the train part's tokens."""
    average = math.fsum(scores[token] * chance for token, chance in chances.items()) / math.fsum(chances.values())
    return 1.0 if average == 0 else 1 - share + share * score / average


Line = list[tuple[int, ...]]  # words, each as its tokens; an empty one is a word that may not be predicted


def stretches(lines: Sequence[Line]) -> list[Line]:
    """Words that follow one another in a line, with none between them that may not be predicted."""
    found: list[Line] = []
    for line in lines:
        found.append([])
        for word in line:
            if word:
                found[-1].append(word)
            else:
                found.append([])
    return found


def collocations(lines: Sequence[Line]) -> dict[tuple[tuple[int, ...], ...], float]:
    """PMI of every sequence of 2 to 5 words with over 10 occurrences: the least over all segmentations."""
    counts: Counter[tuple[tuple[int, ...], ...]] = Counter()
    total: Counter[int] = Counter()
    for line in stretches(lines):
        for size in range(1, 6):
            for i in range(len(line) - size + 1):
                counts[tuple(line[i : i + size])] += 1
                total[size] += 1

    def log_p(words: tuple[tuple[int, ...], ...]) -> float:
        return math.log(counts[words] / total[len(words)])

    def pmi(words: tuple[tuple[int, ...], ...]) -> float:
        found = []
        for number in range(1, len(words)):
            for cuts in itertools.combinations(range(1, len(words)), number):
                parts = [words[i:j] for i, j in itertools.pairwise([0, *cuts, len(words)])]
                found.append(log_p(words) - math.fsum(map(log_p, parts)))
        return min(found)

    return {words: pmi(words) for words, count in counts.items() if len(words) > 1 and count > 10}


def vocabulary_of(lines: Sequence[Line]) -> set[tuple[tuple[int, ...], ...]]:
    """The collocations that are masked: the fewest, 4 : 2 : 1 : 1, with half of all tokens inside. Needs distinct PMIs.

    For lines without words that may not be predicted, so that all tokens are there.
    """
    found = {words: pmi for words, pmi in collocations(lines).items() if pmi > 0}
    by_length = {size: sorted((w for w in found if len(w) == size), key=lambda w: -found[w]) for size in (2, 3, 4, 5)}
    tokens = sum(len(word) for line in lines for word in line)
    for number in range(8 * len(found) + 1):
        chosen = {w for size, part in ((2, 2), (3, 4), (4, 8), (5, 8)) for w in by_length[size][: number // part]}
        covered = 0
        for line in lines:
            inside = {
                i + k
                for size in (2, 3, 4, 5)
                for i in range(len(line) - size + 1)
                if tuple(line[i : i + size]) in chosen
                for k in range(size)
            }
            covered += sum(len(line[i]) for i in inside)
        if covered >= tokens / 2:
            return chosen
    return {*found}


def units(line: Line, chosen: set[tuple[tuple[int, ...], ...]]) -> list[list[int]]:
    """The words of each unit of a line, by place: the longest collocations first, then from the left."""
    unit: dict[int, list[int]] = {}
    for size in (5, 4, 3, 2):
        for i in range(len(line) - size + 1):
            places = list(range(i, i + size))
            if tuple(line[i : i + size]) in chosen and not any(place in unit for place in places):
                unit.update(dict.fromkeys(places, places))
    return [places for place in range(len(line)) if (places := unit.get(place, [place]))[0] == place]


def relevance(lines: Sequence[Sequence[int]], size: int) -> list[float]:
    """By token, the mean over its occurrences of the sum of its PMI with the other tokens of its line."""
    pairs: Counter[tuple[int, int]] = Counter()
    for line in lines:
        for i, j in itertools.permutations(range(len(line)), 2):
            pairs[line[i], line[j]] += 1
    total, one = sum(pairs.values()), Counter[int]()
    for (token, _), count in pairs.items():
        one[token] += count

    def pmi(token: int, other: int) -> float:
        return math.log((pairs[token, other] / total) / (one[token] / total * one[other] / total))

    sums: dict[int, list[float]] = {token: [] for token in range(size)}
    for line in lines:
        for i, token in enumerate(line):
            sums[token].append(math.fsum(pmi(token, other) for j, other in enumerate(line) if j != i))
    return [mean(each) if each else 0.0 for each in sums.values()]
