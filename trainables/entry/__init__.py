"""Everything that the BabyLM challenge asks of a submission, in one folder: see `__main__`."""
