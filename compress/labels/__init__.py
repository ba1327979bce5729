"""Labels: the visual tokens of a sample that the compressor should learn to keep (paper section 3)."""

from compress.labels.audit import Audit, audit
from compress.labels.campaign import Shard, gather, label
from compress.labels.export import export
from compress.labels.kinds import KINDS, ChosenMask, Kind, Problem
from compress.labels.labelling import LabelConfig, Labeller, sample_key, sample_seed
from compress.labels.merge import merge
from compress.labels.single import SampleSearch, group_tokens, search_sample
from compress.labels.store import Label, LabellingRun, LabelStore, read_labels

__all__ = [
    "KINDS", "Audit", "ChosenMask", "Kind", "Label", "LabelConfig", "LabelStore", "Labeller", "LabellingRun",
    "Problem", "SampleSearch", "Shard", "audit", "export", "gather", "group_tokens", "label", "merge",
    "read_labels", "sample_key", "sample_seed", "search_sample",
]  # fmt: skip
