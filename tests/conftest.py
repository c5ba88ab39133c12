"""One thread for each process of the suite: two that use every core wait for each other most of the time."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is first imported, so before anything that imports it
