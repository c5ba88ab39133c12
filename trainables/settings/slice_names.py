"""Names of the slices of the validation loss, for modules that must not import numpy."""

from __future__ import annotations

# By how often the label occurs in the train part: the least count of each band.
BANDS = {"freq_0": 0, "freq_1_9": 1, "freq_10_99": 10, "freq_100_999": 100, "freq_1000_up": 1000}
NAMES = (*BANDS, "word_initial", "continuation", "seen_form", "unseen_form")
