"""What all tests share, whichever file is run.

One thread for each process of the suite: two that use every core wait for each other most of the time. And no deadline
for an example of hypothesis: on a busy machine any may stall.
"""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is first imported, so before anything that imports it
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
