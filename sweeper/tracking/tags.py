"""The tags of runs and of model versions in MLflow that are sweeper's own.

Earlier runs are found by them, so the values stay as they are.
"""

from __future__ import annotations

PREFIX = "sweeper."
PARENT, NOTE, RUN_NAME = "mlflow.parentRunId", "mlflow.note.content", "mlflow.runName"  # MLflow's own

# Of every run: which sweep it is of.
KIND = "sweeper.kind"  # sweep or trial
RUN_ID = "sweeper.run_id"  # the random id in the journal
RUN = "sweeper.run"  # the run's folder
BEGUN = "sweeper.begun"
SPEC_HASH = "sweeper.spec_hash"
TRAINABLE = "sweeper.trainable"
DIGEST = "sweeper.digest"  # of the journal's line up to which the store knows the run
DATA = "sweeper.data_fingerprint"  # one of those that `stages` makes with PREFIX

# Of every run: how it stands.
STATE = "sweeper.state"

# Of a trial's run.
TRIAL = "sweeper.trial"
STAGE = "sweeper.stage"
ARM = "sweeper.arm"
CONFIG_HASH = "sweeper.config_hash"
STEP = "sweeper.step"
REASON = "sweeper.reason"
STUCK = "sweeper.stuck"
REUSED_FROM = "sweeper.reused_from"  # RUN/ID of the trial it was taken over from
FORKED_FROM = "sweeper.forked_from"  # the trial of this sweep in whose trunk it started
FORK_STEP = "sweeper.fork_step"  # and at which step
LACKS = "sweeper.lacks"  # which of the trial's artifacts could not be stored

# Of the sweep's run, and who drives it.
COMMAND = "sweeper.command"
VERSIONS = "sweeper.versions"
SETTINGS = "sweeper.settings"  # those that all its trials share, as JSON; goes on in SETTINGS.1 and so on
PROFILE = "sweeper.profile"
MACHINE = "sweeper.machine"
DOUBT = "sweeper.doubt"
BEST = "sweeper.best"
BEST_SCORE = "sweeper.best_score"
CAUTION = "sweeper.caution"  # of the candidate's model version, too

# Of the sweep's run, of a confirmation's run that of its arm, and of a champion's model version.
VERDICT = "sweeper.verdict"
BASELINE = "sweeper.baseline"  # of the sweep the configuration's hash, of the champion the arm

# Of a model version: these, and those above that say which trial it is of.
SCORE = "sweeper.score"
DIFFERENCE = "sweeper.difference"
INTERVAL = "sweeper.interval"
PAIRS = "sweeper.pairs"
METRIC = "sweeper.metric"
FRESH = "sweeper.fresh"
REPORT = "sweeper.report"
PARAMS = "sweeper.params"
BUDGET = "sweeper.budget"
