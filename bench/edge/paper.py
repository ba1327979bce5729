"""Table 4 of the paper: LLaVA-1.5-7B on the NPU of a Dimensity 9400 phone (MT6991), W4A16KV8."""

from __future__ import annotations

from bench.edge.chain import STAGES
from bench.edge.protocol import PAPER_TEXT, PAPER_TOKENS, Protocol
from bench.edge.timing import EdgeTimes, Measurement

# By visual tokens, in ms: visual encoding, compression, LLM prefill, LLM decoding
PRINTED = {
    576: (220, 0, 853, 81),
    192: (220, 121, 310, 75),
    128: (218, 121, 309, 75),
    64: (218, 121, 156, 74),
}


def table() -> Measurement:
    """The paper's figures in the form of our measurements, with a single round.

    The paper does not give the length of its text; any length up to 64 tokens gives the same chunks.
    """
    protocol, cells = Protocol(), []
    for keep, values in PRINTED.items():
        rows = keep + PAPER_TEXT
        samples = {name: [float(value)] for name, value in zip(STAGES, values, strict=True)}
        context = protocol.contexts[keep < PAPER_TOKENS]
        cells.append(EdgeTimes(keep, rows, context, protocol.chunks(rows), samples))
    return Measurement("paper, MT6991 NPU", "W4A16KV8", True, cells)
