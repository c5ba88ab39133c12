"""sweeper: which tokens should a masked language model mask? Sweeps, verdicts, and the record of both."""

__version__ = "0.1.0"
