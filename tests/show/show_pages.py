"""A small network with everything that a drawing can meet, and a page with every part, some of them named to do harm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pkcompiler.frontend.capture import capture
from pkcompiler.ir.types import PathGraph
from pkcompiler.kernel.path_kernel import kernel_of
from pkcompiler.markup import Cell, Column, Table
from pkcompiler.paths.semiring import settings
from pkcompiler.report.analyze import analyze_graph
from pkcompiler.show.from_reports import page_of
from pkcompiler.show.page import Curve, Dynamics, Page
from pkcompiler.show.results import spectrum_of

HARM = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
SETTINGS = settings(edge="theta^2", pools="sum", products="pairs", constants="on")


class Residual(nn.Module):
    """Convolutions with BatchNorm, an identity skip, a skip with weights, a pool and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.first, self.first_norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.third = nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.first_norm(self.first(x)) + x)
        x = torch.relu(self.third(torch.relu(self.second(x))) + self.shortcut(x))
        return self.head(self.pool(x).flatten(1))


def graph_and_tensors() -> tuple[PathGraph, dict[str, Tensor]]:
    torch.manual_seed(0)
    captured = capture(Residual().eval(), torch.randn(1, 1, 8, 8), dtype=torch.float64)
    return captured.graph, dict(captured.tensors)


def masks_of(graph: PathGraph, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {s.name: torch.rand(tensors[s.name].shape, generator=generator) < 0.5 for s in graph.prunable}


def whole_page(name: str = "residual") -> Page:
    """A page with every part; ``name`` is written wherever a user's text can be."""
    graph, tensors = graph_and_tensors()
    masks = masks_of(graph, tensors)
    report = analyze_graph(graph, tensors, masks, name)
    spectrum = spectrum_of(kernel_of(graph, tensors, SETTINGS, masks), k=6, nodes=8, probes=2)
    steps = tuple(float(i) for i in range(20))
    curves = [Curve(f"{style} {name}", style, steps, tuple(2.0 / (1 + i) for i in steps)) for style in ("line", "dashed", "dots")]
    rows = ((Cell(name), Cell("12", 12.0), Cell("exact")), (Cell("other"), Cell("7", 7.0), Cell("bound (at most)")))
    table = Table(name, (Column("figure"), Column("value", number=True), Column("status")), rows, name)
    return page_of(
        report,
        graph,
        kernel=spectrum,
        dynamics=Dynamics(tuple(curves), note=name),
        analyses=[table],
        formulas=[(name, f"n1*n2 {name}", "n_1 n_2")],
        provenance=[("model", name), ("seed", "0")],
    )
