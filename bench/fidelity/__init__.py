"""Fidelity: what our code makes of the inputs that official implementations were recorded on."""

from bench.fidelity import (
    cdpruner,
    dart,
    divprune,
    dpcknn,
    fastv,
    globalcom2,
    gprune,
    hired,
    holov,
    losses,
    mustdrop,
    prumerge,
    pyramiddrop,
    scope,
    sparsevlm,
    tome,
    trim,
    visionzip,
    vispruner,
    vscan,
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
    "divprune": divprune.check,
    "fastervlm": vispruner.fastervlm,
    "vispruner": vispruner.check,
    "scope": scope.check,
    "holov": holov.check,
    "vscan": vscan.check,
    "vscan_qwen": vscan.qwen,
    "cdpruner": cdpruner.check,
    "trim": trim.check,
    "dpcknn": dpcknn.check,
    "ghmc": losses.ghmc,
    "losses_formula": losses.formulas,
}

__all__ = ["CHECKS", "GOLDEN", "Case", "Check", "Verdict", "read_cases", "verify"]
