"""Names at the root of a model that a lowered network has itself are refused; the same names further in are free."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import apply_masks, lower
from pkcompiler.lowering.modules import Lowered, ModePair
from pkcompiler.lowering.refuse import own_names

X = torch.randn(4, 6)
KINDS = ("parameter", "buffer", "module", "tensor")
SEEN = (
    "recorded",
    "static_batch",
    "programs",
    "graph",
    "_graph",
    "meta",
    "code",
    "recompile",
    "print_readable",
    "masks",
    "mask_names",
)


class Named(nn.Module):
    """A factor under any name, of any kind; ``switches``: the two modes compute differently."""

    def __init__(self, name: str, kind: str, switches: bool = False) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)
        self.name, self.switches = name, switches
        value = torch.linspace(1, 2, 8)
        match kind:
            case "parameter":
                self.register_parameter(name, nn.Parameter(value))
            case "buffer":
                self.register_buffer(name, value)
            case "module":
                self.add_module(name, nn.Linear(8, 8))
            case _:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        h, factor = self.inner(x).relu(), getattr(self, self.name)
        h = factor(h) if isinstance(factor, nn.Module) else h * factor
        return self.outer(F.dropout(h, 0.5, self.training) if self.switches else h)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.rand(p.shape) > 0.4 for name, p in model.named_parameters() if name.endswith("inner.weight")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_that_the_result_has_is_refused_at_the_root(kind: str) -> None:
    assert set(SEEN) <= own_names()
    for name in sorted(own_names()):
        model = Named(name, kind)
        for example in ((), (X,)):
            with pytest.raises(PkcError, match=f"PKC274.*the {kind} '{name}' of Named") as error:
                lower(model, masks_of(model), *example)
            assert [d.code for d in error.value.diagnostics] == ["PKC274"] and error.value.diagnostics[0].notes


def test_the_names_are_all_that_either_result_has() -> None:
    graph = fx.Graph()
    graph.output(None)
    for network in (Lowered(nn.Module(), graph, {}), ModePair(nn.Module(), graph, graph, {})):
        assert {*dir(type(network)), *vars(network)} - set(dir(nn.Module())) <= own_names()


@pytest.mark.parametrize("switches", [False, True])
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("name", [*SEEN, "own"])
def test_within_a_submodule_they_are_free(name: str, kind: str, switches: bool) -> None:
    model = nn.Sequential(Named(name, kind, switches))
    masks = masks_of(model)
    network, masked = lower(model, masks, X), apply_masks(copy.deepcopy(model), masks)
    for training in (True, False):
        outputs = []
        for net in (network.train(training), masked.train(training)):
            torch.manual_seed(0)
            outputs.append(net(X))
        assert torch.equal(*outputs)
    assert network.state_dict().keys() == model.state_dict().keys()
