"""pkcompiler: path kernels, pruning criteria and sparse networks from one typed graph of a PyTorch model.

The public names are loaded on first use, so that ``import pkcompiler`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pkcompiler.version import __version__ as __version__

if TYPE_CHECKING:
    from pkcompiler.analyses.analysis_report import AnalysisReport
    from pkcompiler.analyses.run import run_analysis
    from pkcompiler.artifact.read import Artifact, load
    from pkcompiler.diagnostics import Diagnostic, PkcError
    from pkcompiler.driver.prune import prune
    from pkcompiler.exporting.entry import Exported, export
    from pkcompiler.frontend.capture import lift
    from pkcompiler.ir.parse import parse_graph
    from pkcompiler.ir.types import PathGraph
    from pkcompiler.kernel.explicit import ExplicitKernel, explicit
    from pkcompiler.kernel.gram import PathKernel
    from pkcompiler.kernel.path_kernel import path_kernel
    from pkcompiler.lowering import apply_masks, import_masks, lower, remove_masks
    from pkcompiler.lowering.compact.make import compact
    from pkcompiler.lowering.compact.result import Compact
    from pkcompiler.ops.own import path_op
    from pkcompiler.paths.certificate import Certificate, certify
    from pkcompiler.paths.functional import Functional, path_functional
    from pkcompiler.predict.mean_trace import Prediction, predict_trace
    from pkcompiler.pruning.state import Pruned
    from pkcompiler.report.analyze import analyze
    from pkcompiler.report.report import Report
    from pkcompiler.rescaling.rescale import Rescaled, rescale
    from pkcompiler.scoring.score import Scores, score
    from pkcompiler.structure.coupling import channel_groups
    from pkcompiler.symbolic.closed import ClosedForms, closed_forms
    from pkcompiler.symbolic.polynomials import Polynomials, polynomials
    from pkcompiler.tangent.dynamics import Dynamics, dynamics
    from pkcompiler.tangent.ntk import NTK, ntk
    from pkcompiler.tangent.trajectory import LossPathKernel
    from pkcompiler.training.schedule import TrainingSchedule, load_schedule

_HOME = {
    "AnalysisReport": "analyses.analysis_report",
    "Artifact": "artifact.read",
    "Certificate": "paths.certificate",
    "ClosedForms": "symbolic.closed",
    "Compact": "lowering.compact.result",
    "Diagnostic": "diagnostics",
    "Dynamics": "tangent.dynamics",
    "ExplicitKernel": "kernel.explicit",
    "Exported": "exporting.entry",
    "Functional": "paths.functional",
    "LossPathKernel": "tangent.trajectory",
    "NTK": "tangent.ntk",
    "PathGraph": "ir.types",
    "PathKernel": "kernel.gram",
    "PkcError": "diagnostics",
    "Polynomials": "symbolic.polynomials",
    "Prediction": "predict.mean_trace",
    "Pruned": "pruning.state",
    "Report": "report.report",
    "Rescaled": "rescaling.rescale",
    "Scores": "scoring.score",
    "TrainingSchedule": "training.schedule",
    "analyze": "report.analyze",
    "apply_masks": "lowering",
    "certify": "paths.certificate",
    "channel_groups": "structure.coupling",
    "closed_forms": "symbolic.closed",
    "compact": "lowering.compact.make",
    "dynamics": "tangent.dynamics",
    "explicit": "kernel.explicit",
    "export": "exporting.entry",
    "import_masks": "lowering",
    "lift": "frontend.capture",
    "load": "artifact.read",
    "load_schedule": "training.schedule",
    "lower": "lowering",
    "ntk": "tangent.ntk",
    "parse_graph": "ir.parse",
    "path_functional": "paths.functional",
    "path_kernel": "kernel.path_kernel",
    "path_op": "ops.own",
    "polynomials": "symbolic.polynomials",
    "predict_trace": "predict.mean_trace",
    "prune": "driver.prune",
    "remove_masks": "lowering",
    "rescale": "rescaling.rescale",
    "run_analysis": "analyses.run",
    "score": "scoring.score",
}

__all__ = [
    "NTK",
    "AnalysisReport",
    "Artifact",
    "Certificate",
    "ClosedForms",
    "Compact",
    "Diagnostic",
    "Dynamics",
    "ExplicitKernel",
    "Exported",
    "Functional",
    "LossPathKernel",
    "PathGraph",
    "PathKernel",
    "PkcError",
    "Polynomials",
    "Prediction",
    "Pruned",
    "Report",
    "Rescaled",
    "Scores",
    "TrainingSchedule",
    "analyze",
    "apply_masks",
    "certify",
    "channel_groups",
    "closed_forms",
    "compact",
    "dynamics",
    "explicit",
    "export",
    "import_masks",
    "lift",
    "load",
    "load_schedule",
    "lower",
    "ntk",
    "parse_graph",
    "path_functional",
    "path_kernel",
    "path_op",
    "polynomials",
    "predict_trace",
    "prune",
    "remove_masks",
    "rescale",
    "run_analysis",
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
