"""Labels: which visual tokens of a training sample the compressor should learn to keep (paper section 3)."""

from compress.labels.kinds import KINDS, Choice, Kind, Problem
from compress.labels.labelling import LabelConfig, label, sample_key, sample_seed
from compress.labels.store import Label, LabelStore, read_labels

__all__ = [
    "KINDS", "Choice", "Kind", "Label", "LabelConfig", "LabelStore", "Problem", "label", "read_labels",
    "sample_key", "sample_seed",
]  # fmt: skip
