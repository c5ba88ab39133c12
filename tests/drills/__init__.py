"""Drills: whole sweeps that are made to fail or to last, and what must still hold. `python -m tests.drills NAME`."""
