"""The other suites with comparable results, by name."""

from __future__ import annotations

from bench.evaluation.graded import Suite
from bench.evaluation.lmms_eval_logs import LmmsEval
from bench.evaluation.vlmevalkit_files import VLMEvalKit

SUITES: dict[str, type[Suite]] = {"lmms-eval": LmmsEval, "vlmevalkit": VLMEvalKit}
