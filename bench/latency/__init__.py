"""Latency of an answer, stage by stage, on the code path that is also evaluated: `attach` and `generate`."""
