"""Everything that the BabyLM challenge asks of a submission, in one folder: `python -m trainables.entry`."""

from trainables.entry.command import main as main
