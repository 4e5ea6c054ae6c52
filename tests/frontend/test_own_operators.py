"""Entries of the user's own: read whatever else is in the model, or refused where they are registered."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from operator_tools import Net, p
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler import path_op
from pkcompiler.cli import main
from pkcompiler.diagnostics import PkcError
from pkcompiler.frontend.capture import capture
from pkcompiler.ops.catalogue import _pointwise
from pkcompiler.ops.decompose import FIRST, REWRITES, WHOLE, decompositions, is_composed
from pkcompiler.ops.gates import FROZEN_LIST, is_pointwise
from pkcompiler.ops.own import idle_entry
from pkcompiler.ops.table import TABLE, Use

X = torch.randn(2, 6)


def overload(name: str) -> Any:
    return operator.attrgetter(name)(torch.ops)


@contextmanager
def entry(name: str, does: Callable[[Use], Any]) -> Iterator[None]:
    """The entry in the table, which is as before afterwards."""
    before = dict(TABLE)
    TABLE[name] = does
    try:
        yield
    finally:
        TABLE.clear()
        TABLE.update(before)


class Asked(Exception):
    """What an entry says here when it is asked."""


def asks(use: Use) -> Any:
    raise Asked


# an entry is read, whatever else is in the model -------------------------------------------------------------------------

KEPT = {
    "aten.diff.default": lambda x: torch.diff(x),
    "aten.rot90.default": lambda x: torch.rot90(x, 2, (1, 2)),
    "aten.diag_embed.default": lambda x: torch.diag_embed(x),
    "aten.glu.default": lambda x: F.glu(x),
    "aten.amin.default": lambda x: torch.amin(x, -1),
    "aten.cosine_similarity.default": lambda x: F.cosine_similarity(x, x.flip(1), -1),
    "aten.trapezoid.dx": lambda x: torch.trapezoid(x),
}
"""Operators that torch, or a rewriting, writes as others; an entry is for each."""
BESIDE = {
    "nothing": lambda x: x,
    "a glu": lambda x: torch.cat([F.glu(x), F.glu(x)], -1),
    "a quotient": lambda x: x / (1 + x.abs().sum(-1, keepdim=True)),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("name", KEPT)
def test_an_entry_is_asked_whatever_else_is_in_the_model(name: str, beside: str) -> None:
    net = Net(lambda m, x: KEPT[name](BESIDE[beside](m.w * x)), w=p(6))
    with entry(name, asks), pytest.raises(Asked):
        capture(net, torch.randn(2, 6, 6), dtype=torch.float64)


def test_what_has_an_entry_is_never_decomposed() -> None:
    assert {str(target) for target in decompositions()} & TABLE.keys() == FIRST
    assert {str(target) for target in REWRITES} & TABLE.keys() == FIRST


def test_what_is_read_whole_without_an_entry_is_a_gate_or_frozen() -> None:
    names = {str(overload(f"aten.{name}" if "." in name else f"aten.{name}.default")) for name in WHOLE.split()}
    assert not names & TABLE.keys()
    assert all(is_pointwise(overload(name)) or name in FROZEN_LIST for name in names)


COMPOSED = {
    "aten.reshape.default": lambda x: x.reshape(-1, 2, 3),
    "aten.flatten.using_ints": lambda x: x[:, None].flatten(1),
    "aten.unflatten.int": lambda x: x.unflatten(1, (2, 3)),
    "aten.narrow.default": lambda x: x.narrow(1, 1, 3),
    "aten.chunk.default": lambda x: x.chunk(2, 1)[1],
    "aten.batch_norm.default": nn.BatchNorm1d(6).eval(),
}
"""The closed list of what has an entry and is decomposed by torch where anything is."""


def test_the_list_of_what_torch_composes_is_closed() -> None:
    shipped = [name for name in TABLE if name.startswith("aten.") and is_composed(overload(name))]
    assert sorted(shipped) == sorted(COMPOSED)


@pytest.mark.parametrize("name", COMPOSED)
def test_what_torch_composes_reads_the_same_either_way(name: str) -> None:
    does = COMPOSED[name]
    parts = {"norm": does} if isinstance(does, nn.Module) else {}
    net = Net(lambda m, x: does(m.w * x), w=p(6), **parts)
    alone = capture(net, X, dtype=torch.float64).graph.ops
    beside = Net(lambda m, x: does(m.w * x).flatten(1).sum(-1) + F.glu(x).sum(-1), w=p(6), **parts)
    forced = capture(beside, X, dtype=torch.float64)
    assert [op.map for op in alone] == [op.map for op in forced.graph.ops][: len(alone)]


# an entry that would never be asked is refused ---------------------------------------------------------------------------

UNASKED = {
    "aten.erf.default": "a gate already",
    "aten.clamp.default": "a gate already",
    "aten.relu_.default": "writes into a tensor",
    "aten.add.out": "writes into a tensor",
    "aten.movedim.int": "torch writes it as other operators",
    "aten.chunk.default": "torch writes it as other operators",
    "aten.div.Tensor": "it is rewritten",
    "aten.var.correction": "no slope at 0",
    "aten.log.default": "no slope at 0",
    "aten.clone.default": "changes no value",
    "aten.zeros_like.default": "nothing but the shape",
}
NAMELESS = {
    "aten.linear": "did you mean 'aten.linear.default'?",
    "aten.linaer.default": "did you mean 'aten.linear.default'?",
    "mine.mirror": "did you mean 'mine.mirror.default'?",
    "mirror": "aten.linear.default",
    "mine.mirror.default.": "aten.linear.default",
}


def refused(*names: str) -> PkcError:
    before = dict(TABLE)
    with pytest.raises(PkcError) as caught:
        path_op(*names)(asks)
    assert before == TABLE
    return caught.value


@pytest.mark.parametrize("name", UNASKED)
def test_an_entry_that_would_never_be_asked_is_refused(name: str) -> None:
    (found,) = refused("aten.diff.default", name).diagnostics
    assert found.code == "PKC215" and f"'{name}'" in found.message and UNASKED[name] in found.message
    assert "torch.library.custom_op" in found.notes[-1]
    assert found.span is not None and "path_op(*names)" in found.span.text[found.span.start : found.span.end]


@pytest.mark.parametrize("name", NAMELESS)
def test_a_name_of_no_operator_is_refused(name: str) -> None:
    (found,) = refused(name).diagnostics
    assert found.code == "PKC215" and f"there is no operator '{name}'" in found.message
    assert any(NAMELESS[name] in note for note in found.notes)


def test_every_name_is_refused_at_once_and_none_is_no_entry() -> None:
    assert len(refused("aten.erf.default", "aten.linear", "aten.diff.default").diagnostics) == 2
    assert refused().diagnostics[0].code == "PKC215"


def of_one_tensor() -> list[str]:
    """The pointwise operators that take one tensor and nothing else that has no default."""
    schemas = {name: overload(name)._schema for name in _pointwise()}
    alone = [n for n, s in schemas.items() if [str(a.type) for a in s.arguments if not a.has_default_value()] == ["Tensor"]]
    return [n for n in alone if not any(str(a.type) == "Optional[Tensor]" for a in schemas[n].arguments)]


def test_entries_of_pointwise_operators_of_one_tensor_are_refused_because_nothing_asks_them() -> None:
    """Every one of them, in a model of it alone: refused where it is not asked, and only there."""
    asked = []
    for name in of_one_tensor():
        net = Net(partial(lambda run, m, x: run(m.w * x), overload(name)), w=p(6))
        with entry(name, asks):
            try:
                capture(net, X, dtype=torch.float64)
            except Asked:
                asked.append(name)
            except PkcError:
                pass  # integers, or no derivative: read without the table all the same
    assert len(of_one_tensor()) > 60
    assert asked == [name for name in of_one_tensor() if idle_entry(name) is None]


@pytest.mark.parametrize("name", ["aten.atan2.default", "aten.hypot.default", "aten.maximum.default", "aten.mul.Tensor"])
def test_an_entry_of_a_pointwise_operator_of_two_tensors_is_asked(name: str) -> None:
    assert idle_entry(name) is None
    with entry(name, asks), pytest.raises(Asked):
        capture(Net(lambda m, x: overload(name)(m.a(x), m.b(x)), a=nn.Linear(6, 4), b=nn.Linear(6, 4)), X, dtype=torch.float64)


PLUGIN = """
from pkcompiler import path_op


@path_op("aten.erf.default")
def erf(use):
    return use.path(use["self"])
"""


def test_a_plug_in_that_would_be_ignored_stops_the_command(tmp_path: Path) -> None:
    plugin = tmp_path / "my_ops.py"
    plugin.write_text(PLUGIN)
    done = CliRunner().invoke(main, ["ir", "examples/digits_mlp.py", "--plugin", str(plugin)])
    assert done.exit_code == 1 and "PKC215" in done.stderr and "my_ops.py:5" in done.stderr and not done.stdout


torch.library.define("pkc_own::late", "(Tensor x) -> Tensor", tags=(torch.Tag.pointwise,))
torch.library.impl("pkc_own::late", "CompositeExplicitAutograd", lambda x: x.sigmoid())
torch.library.register_fake("pkc_own::late", torch.empty_like)


def test_an_operator_that_is_defined_after_its_entry_is_met_in_the_model() -> None:
    with entry("pkc_own.late.default", asks), pytest.raises(PkcError, match=r"PKC215.*'pkc_own.late.default'"):
        capture(Net(lambda m, x: torch.ops.pkc_own.late(m.w * x), w=p(6)), X, dtype=torch.float64)


SHIPPED = """
from pkcompiler import path_op
mine = path_op("aten.flip.default")(lambda use: None)
import pkcompiler.ops.entries
from pkcompiler.ops.table import TABLE
assert TABLE["aten.flip.default"] is mine and "aten.roll.default" in TABLE
"""


def test_an_entry_takes_the_place_of_a_shipped_one_whichever_is_imported_first() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SHIPPED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# what acts on weights has no entry ---------------------------------------------------------------------------------------


def test_what_a_weight_is_computed_by_is_said_to_be_that() -> None:
    """All of it at once, in the user's lines; an entry is not what is asked for."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        w = torch.cummin(m.w, 0).values
        return F.linear(x, w * torch.cummax(m.w, 0).values)

    with pytest.raises(PkcError) as caught:
        capture(Net(forward, w=p(6, 6)), X, dtype=torch.float64)
    first, *others = caught.value.diagnostics
    assert first.code == "PKC201" and "a weight is computed by operator 'aten." in first.message and others
    assert first.span is not None and "torch.cummin(m.w, 0).values" in first.span.text[first.span.start : first.span.end]
    assert not any("give it a meaning" in note for d in caught.value.diagnostics for note in d.notes)
    assert "store the result as the parameter" in first.notes[-1] and "not asked for weights" in first.notes[-2]
