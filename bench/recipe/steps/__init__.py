"""The steps of a recipe: label, train, answer. A hash of everything a result depends on names its folder.

    runs/steps/label-1a2b3c4d5e6f7081/step.json      facts of the step; times.json: its times

The hash covers settings, models' weights, data, earlier steps, and the code that does the work
(`compress.fingerprint`). Any recipe that needs a finished step reuses it, and a stale result is never reused.
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
