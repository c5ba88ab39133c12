"""Threads and device of a command: their arguments, and a check that this machine has them."""

from __future__ import annotations

import argparse
import os

MOST_THREADS = 1024  # no machine has more, and starting a million of them ends the process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --threads and --device."""
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")


def use(device: str, threads: int) -> None:
    """Set torch's threads. Raises ValueError, in one line, for too many of them or a device that is not there."""
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"--threads {threads}: must be 1 to {MOST_THREADS}")
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {device}: there is no such device here; cpu always works") from None
    torch.set_num_threads(threads)


def check_workers(count: int, device: str) -> None:
    """Raises ValueError, in one line, for several processes on a GPU."""
    if count > 1 and device != "cpu":
        raise ValueError(f"--workers {count} goes with --device cpu: one process keeps a GPU busy")
