"""Fidelity: what our code makes of the inputs that official implementations were recorded on."""

from bench.fidelity import (
    dart,
    dpcknn,
    fastv,
    globalcom2,
    gprune,
    hired,
    losses,
    mustdrop,
    prumerge,
    pyramiddrop,
    sparsevlm,
    tome,
    visionzip,
)
from bench.fidelity.cases import GOLDEN, Case, Check, Verdict, read_cases, verify

CHECKS: dict[str, Check] = {
    "fastv": fastv.check,
    "dart": dart.check,
    "sparsevlm": sparsevlm.check,
    "sparsevlm_rank": sparsevlm.rank,
    "pyramiddrop": pyramiddrop.check,
    "hired": hired.check,
    "prumerge": prumerge.check,
    "visionzip": visionzip.check,
    "globalcom2": globalcom2.check,
    "gprune": gprune.check,
    "tome": tome.check,
    "mustdrop": mustdrop.check,
    "dpcknn": dpcknn.check,
    "ghmc": losses.ghmc,
    "losses_formula": losses.formulas,
}

__all__ = ["CHECKS", "GOLDEN", "Case", "Check", "Verdict", "read_cases", "verify"]
