"""pkcompiler: path kernels, pruning criteria and sparse networks from one typed graph of a PyTorch model.

The public names are loaded on first use, so that ``import pkcompiler`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pkcompiler.analysis.certificate import Certificate, certify
    from pkcompiler.analysis.functional import Functional, path_functional
    from pkcompiler.analysis.report import Report, analyze
    from pkcompiler.diagnostics import Diagnostic, PkcError
    from pkcompiler.frontend.capture import lift
    from pkcompiler.ir.parse import parse_graph
    from pkcompiler.ir.types import PathGraph
    from pkcompiler.lowering import apply_masks, lower
    from pkcompiler.ops.table import path_op
    from pkcompiler.pruning.artifact import Artifact, load
    from pkcompiler.pruning.rounds import Pruned, prune
    from pkcompiler.pruning.score import Scores, score

_HOME = {
    "Artifact": "pruning.artifact",
    "Certificate": "analysis.certificate",
    "Diagnostic": "diagnostics",
    "Functional": "analysis.functional",
    "PathGraph": "ir.types",
    "PkcError": "diagnostics",
    "Pruned": "pruning.rounds",
    "Report": "analysis.report",
    "Scores": "pruning.score",
    "analyze": "analysis.report",
    "apply_masks": "lowering",
    "certify": "analysis.certificate",
    "lift": "frontend.capture",
    "load": "pruning.artifact",
    "lower": "lowering",
    "parse_graph": "ir.parse",
    "path_functional": "analysis.functional",
    "path_op": "ops.table",
    "prune": "pruning.rounds",
    "score": "pruning.score",
}

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Certificate",
    "Diagnostic",
    "Functional",
    "PathGraph",
    "PkcError",
    "Pruned",
    "Report",
    "Scores",
    "analyze",
    "apply_masks",
    "certify",
    "lift",
    "load",
    "lower",
    "parse_graph",
    "path_functional",
    "path_op",
    "prune",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pkcompiler' has no attribute {name!r}")
    value = getattr(import_module(f"pkcompiler.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
