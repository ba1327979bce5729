"""The steps of a recipe: label, train, answer. Each works in a folder named by all that its result hangs on.

    runs/steps/label-1a2b3c4d5e6f7081/step.json      what it was; times.json: how long it took

Name = digest of settings, models' weights, data, the steps before it, and the code that does it
(`compress.fingerprint`).
So a finished step is found again by whatever recipe needs it, and nothing stale ever is.
"""

from bench.recipe.steps.answering import AnswerStep, Candidate, named, trained
from bench.recipe.steps.base import RECORD, SamplePool, Step, StepRecord, Workspace, key_of, read_record
from bench.recipe.steps.labelling import LabelStep
from bench.recipe.steps.training import Trained, TrainJob, TrainStep

__all__ = [
    "RECORD",
    "AnswerStep",
    "Candidate",
    "LabelStep",
    "SamplePool",
    "Step",
    "StepRecord",
    "TrainJob",
    "TrainStep",
    "Trained",
    "Workspace",
    "key_of",
    "named",
    "read_record",
    "trained",
]
