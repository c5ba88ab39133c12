"""Masked-language-model pretraining: the loop. Under a sweep, or alone: `python -m trainables.mlm --set steps=200`.

The heavy imports are in the functions that need them, so that a driver reads `Config` in a moment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.trainable import TrainContext
from trainables.config import Config, override


def prepare(config: Config) -> dict[str, Any]:
    """Tokenise the corpus into the cache, or find it there. ValueError, in one line, for what cannot be had."""
    from trainables import data

    prepared = data.prepare(config.data)
    return {"data_fingerprint": prepared.fingerprint, **prepared.facts}


def train(config: Config, context: TrainContext) -> None:
    """Train to the full length, reporting validation metrics and a checkpoint at every `reporting_every` steps.

    All that a step depends on is (config, seed, step) and the restored state: stopped anywhere and resumed, it ends
    with the same bits as if it had never been stopped (same device kind, threads and number of ranks).
    """
    import torch

    from trainables import bundle, data, evaluate, masking, model, noise, optimiser

    prepared = data.prepare(config.data)
    rows = slice(*(config.batch_size * r // context.world_size for r in (context.rank, context.rank + 1)))
    batches = data.Batches(prepared, config.batch_size, context.seed)
    bert = model.CompactBert(config.model, prepared.vocab_size, prepared.pad_id).initialise(context.seed)
    bert.to(context.device).train()
    adamw = optimiser.Optimiser(bert, config)
    policy = masking.build(config, prepared.token_strings, prepared.eligible, rows, context.device)
    replacement = masking.Replacement(prepared.mask_id, prepared.vocab_size, rows)
    validation = evaluate.Validation(prepared, context.device, context.rank, context.world_size)
    history: list[bundle.Row] = []
    if context.restore_from:
        states, history = bundle.read_checkpoint(context.restore_from)
        bert.load_state_dict(states["model"])
        adamw.load(states["optimiser"])
        policy.load(states["masking"], context.rank)
    total_loss = torch.zeros((), dtype=torch.float64, device=context.device)
    bfloat16 = torch.autocast(torch.device(context.device).type, torch.bfloat16, config.precision == "bfloat16")

    for step in range(int(history[-1]["step"]) if history else 0, config.steps):
        ids = torch.from_numpy(batches.tokens(step, rows)).to(context.device, non_blocking=True)
        step_noise = noise.StepNoise(context.seed, config.noise_salt, step, (config.batch_size, config.data.block))
        selection = policy.select(ids, step_noise)
        labels = ids.flatten()[selection.positions.clamp(max=ids.numel() - 1)]
        torch.manual_seed(noise.derive(context.seed, "dropout", step, context.rank))
        with bfloat16:
            inputs = replacement(ids, selection, step_noise)
            loss, predictions = bert.loss(inputs, selection.positions, labels, selection.weight)
        (loss / policy.total).backward()
        adamw.step(step, context.all_reduce, alone=context.world_size == 1)
        policy.observe(labels, predictions, selection.weight)
        total_loss += loss.detach()
        done = step + 1
        if done % config.update_every == 0:
            policy.refresh(context.all_reduce)
        if done % config.reporting_every and done != config.steps:
            continue

        context.all_reduce(total_loss)
        mean_loss = total_loss.item() / (policy.total * (done - (history[-1]["step"] if history else 0)))
        row = {"step": done, "train/loss": mean_loss, **validation(bert, context.all_reduce)}
        row |= policy.metrics(context.all_reduce)
        total_loss.zero_()
        history.append(row)
        masking_state = policy.state(context.all_reduce)
        checkpoint = None
        if context.rank == 0:
            states = {"model": bert.state_dict(), "optimiser": adamw.state(), "masking": masking_state}
            checkpoint = bundle.write_checkpoint(states, history)
            if done == config.steps:
                facts = {"seed": context.seed, "metrics": row}
                bundle.write_bundle(checkpoint / "bundle", bert, prepared, config, facts)
        context.report(row, checkpoint)


def main(arguments: list[str] | None = None) -> int:
    """Train alone and leave the bundle in a folder. Exit status 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m trainables.mlm", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting, such as steps=200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    parser.add_argument("--output", type=Path, default=Path("runs/mlm"), help="default: runs/mlm")
    parser.add_argument("--resume", action="store_true", help="go on from the output folder's checkpoint")
    options = parser.parse_args(arguments)
    kept = options.output / "checkpoint"
    try:
        config = override(options.set)
        if kept.exists() and not options.resume:
            raise ValueError(f"{options.output} holds another run: give --resume, or another --output")
        prepare(config)
        options.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import torch

    torch.set_num_threads(options.threads)
    restore = kept if kept.exists() else None
    train(config, TrainContext(_reporter(kept), options.seed, device=options.device, restore_from=restore))
    print(f"bundle: {kept / 'bundle'}", file=sys.stderr)
    return 0


def _reporter(kept: Path) -> Any:
    """Prints each row and keeps the newest checkpoint in a folder."""

    def report(metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        shown = "  ".join(f"{key} {metrics[key]:.4f}" for key in ("train/loss", "val/loss", "val/loss_mask"))
        print(f"step {metrics['step']}  {shown}  unigram {metrics['val/unigram_mask']:.4f}", file=sys.stderr)
        assert checkpoint is not None
        new = Path(shutil.move(checkpoint, kept.with_name("checkpoint.new")))
        shutil.rmtree(kept, ignore_errors=True)
        new.rename(kept)

    return report


if __name__ == "__main__":
    sys.exit(main())
