"""What a verdict can settle: `python -m tests.benchmarks.power RUNS.jsonl [--profile laptop] [--seeds 101 102 …]`.

Arms of both studies are trained as a profile of `mix_ratios.yaml` trains its own, one thread, every arm on every seed,
judged on the test part; runs that are in the file already are not trained again. Told are the paired differences to
random masking: mean, intervals, sd, correlation, the verdict over all arms that are there, and how many pairs would
show 0.01 nats in a single comparison.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweeper.confirmation import paired_tests, verdicts
from sweeper.spec import load
from sweeper.system.markdown import between
from sweeper.trainable import TrainContext
from tests.benchmarks.recipe import leaves
from trainables import mlm

BASELINE = "random"
EFFECT = 0.01  # nats
STAYED = "stayed at word frequencies"
# AMLM as published has no mask warm-up; with one it parts from random masking where the mixtures do.
WARM = {"masking.mask_warmup": 0.3}
ARMS: dict[str, dict[str, Any]] = {
    "random": {"masking.preset": "random"},
    "accuracy-morph": {"masking.preset": "accuracy_morph"},
    "token-only": {"masking.preset": "token_only"},
    "trigram-only": {"masking.preset": "trigram_only"},
    "amlm-hard": {"masking.preset": "published/amlm-hard"},
    "amlm-soft": {"masking.preset": "published/amlm-soft"},
    "token-heavy": {
        "masking.preset": "accuracy_morph",
        "masking.shares": {"random": 0.5, "token": 0.4, "trigram": 0.1},
    },
    "cms-morph": {"masking.preset": "cms_morph"},
    "whole-word": {"masking.preset": "whole_word"},
    "amlm-hard-warm": {"masking.preset": "published/amlm-hard", **WARM},
    "amlm-soft-warm": {"masking.preset": "published/amlm-soft", **WARM},
    "other-noise": {"masking.preset": "random", "noise_salt": 1},
}


def trained(profile: str, arm: str, seed: int) -> dict[str, Any]:
    """One run's record."""
    question = load.load(Path("search_spaces/mix_ratios.yaml"), profile)
    config = mlm.Config.model_validate(question.trainable_config(ARMS[arm]))
    rows: list[Mapping[str, float]] = []
    documents: dict[str, Any] = {}

    def keep(row: Mapping[str, float], checkpoint: Path | None) -> None:
        rows.append(dict(row))
        if checkpoint:
            told = checkpoint / "bundle" / "analysis" / "documents.json"
            documents.update(json.loads(told.read_text("utf-8")) if told.exists() else {})
            shutil.rmtree(checkpoint)

    begin = time.process_time()
    mlm.train(config, TrainContext(keep, seed, test=True))
    end = rows[-1]
    return {
        "profile": profile,
        "arm": arm,
        "seed": seed,
        "config": question.config_hash(question.trainable_config(ARMS[arm])),
        "test/loss": end["test/loss"],
        "val/loss": end["val/loss"],
        "gain": end["val/unigram_mask"] - end["val/loss_mask"],
        "left": leaves({int(row["step"]): row["val/unigram_mask"] - row["val/loss_mask"] for row in rows}),
        "seconds": round(time.process_time() - begin, 1),
        "documents": documents,
    }


def known(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def table(runs: Sequence[Mapping[str, Any]], metric: str) -> Iterator[str]:
    """Every arm against random masking over the seeds that both have, by the product's own rule, as Markdown."""
    by: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        by[run["arm"]][run["seed"]] = run
    arms = [name for name in ARMS if name in by]
    losses = {arm: {seed: run[metric] for seed, run in by[arm].items()} for arm in arms}
    sums: dict[str, dict[int, paired_tests.Array]] = {arm: {} for arm in arms}
    for run in runs:
        if metric == "test/loss" and run["documents"]:
            sums[run["arm"]][run["seed"]] = np.array([run["documents"]["loss"], run["documents"]["predictions"]])
    stuck = {arm: {seed: STAYED for seed, run in by[arm].items() if run["gain"] <= mlm.LEARNED} for arm in arms}
    found = verdicts.verdicts(losses, BASELINE, documents=sums, stuck=stuck)
    said = {one.arm: one for one in found.comparisons}
    yield (
        f"| arm | pairs | {metric} | 95 % over seeds | over seeds and documents | sd (95 %) | correlation | "
        f"p (Holm) | pairs for {EFFECT:g} | verdict | left by step | gain | s |"
    )
    yield "|:--|--:|--:|--:|--:|--:|--:|--:|--:|:--|--:|--:|--:|"
    for arm in arms:
        mine = [*by[arm].values()]
        left = max((run["left"] or float("inf") for run in mine), default=0)
        gains, seconds = [run["gain"] for run in mine], np.mean([run["seconds"] for run in mine])
        end = f"{left:g} | {min(gains):.2f} to {max(gains):.2f} | {seconds:.0f} |"
        one = said.get(arm)
        if one is None or one.interval is None or not one.sd:
            yield f"| {arm} | {len(mine)} | {np.mean([run[metric] for run in mine]):.4f} |{' - |' * 7} {end}"
            continue
        sds = (one.sd, *paired_tests.sd_interval(one.sd, one.n))
        needed = [paired_tests.pairs_needed(EFFECT / sd, 1) for sd in sds]
        both = between(one.documents.combined) if one.documents else "-"
        yield (
            f"| {arm} | {one.n} | {one.mean:+.4f} | {between(one.interval)} | {both} | {sds[0]:.4f} ({sds[1]:.4f} to "
            f"{sds[2]:.4f}) | {one.correlation or 0:.2f} | {one.adjusted:.2g} | {needed[0]} ({needed[1]} to "
            f"{needed[2]}) | {one.label} | {end}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.power", description=__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS.jsonl", help="a line a run, read and added to")
    parser.add_argument("--profile", default="laptop", choices=["laptop", "small"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to train; without any, the table alone")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--table", nargs="+", choices=list(ARMS), help="the arms compared, random among them; all")
    parser.add_argument("--metric", default="test/loss", choices=["test/loss", "val/loss"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    there = {(run["profile"], run["arm"], run["seed"]) for run in known(options.runs)}
    for seed in options.seeds:
        for arm in options.arms:
            if (options.profile, arm, seed) not in there:
                line = json.dumps(trained(options.profile, arm, seed))
                with options.runs.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
    shown = options.table or list(ARMS)
    runs = [run for run in known(options.runs) if run["profile"] == options.profile and run["arm"] in shown]
    print("\n".join(table(runs, options.metric)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
