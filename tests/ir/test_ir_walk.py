"""The one loop over a graph: what it gives is what a plain loop gives, and no value outlives the last operation that reads it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_graphs import sound_graphs

from pkcompiler.ir.graphs import carrying, crossed_twice, data_dependent, makers, parametric
from pkcompiler.ir.maps import Dense, Frozen, Gate, Merge, Product, Scale
from pkcompiler.ir.types import Op, PathGraph, Slot, TensorType, Value
from pkcompiler.ir.uses import uses
from pkcompiler.ir.walk import back, forward, last_uses, marked, reached, values

COUNT = 100
T = TensorType("f32", (1, 2))


class Held:
    """A value that can be watched: the names of all values behind it."""

    def __init__(self, name: str, read: list[Held]) -> None:
        self.text: str = f"{name}({', '.join(x.text for x in read)})"


def written(op: Op, read: list[str]) -> str:
    return f"{op.name}({', '.join(read)})"


def plain(graph: PathGraph) -> dict[str, str]:
    """Every value written out, by a loop that forgets nothing."""
    known = {value.name: value.name for value in graph.inputs}
    for op in graph.ops:
        known[op.name] = written(op, [known[name] for name in op.inputs])
    return known


def name_of(value: Value) -> str:
    return value.name


@given(sound_graphs())
@settings(max_examples=COUNT, deadline=None)
def test_forward_is_the_plain_loop(graph: PathGraph) -> None:
    assert list(values(graph, name_of, written)) == list(plain(graph).items())
    assert forward(graph, name_of, written) == tuple(plain(graph)[name] for name in graph.outputs)


@given(sound_graphs())
@settings(max_examples=COUNT, deadline=None)
def test_a_value_lives_until_its_last_reader_and_no_longer(graph: PathGraph) -> None:
    """Counted by weak references while each operation is done: alive are those that it or a later one reads, and the outputs."""
    alive: dict[str, weakref.ref[Held]] = {}

    def watched(name: str, held: Held) -> Held:
        alive[name] = weakref.ref(held)
        return held

    def step(op: Op, read: list[Held]) -> Held:
        here = graph.ops.index(op)
        needed = {name for later in graph.ops[here:] for name in later.inputs} | set(graph.outputs)
        assert {name for name, held in alive.items() if held() is not None} == needed & alive.keys()
        return watched(op.name, Held(op.name, read))

    outputs = forward(graph, lambda value: watched(value.name, Held(value.name, [])), step)
    assert {name for name, held in alive.items() if held() is not None} == set(graph.outputs)
    assert len(outputs) == len(graph.outputs)


@given(sound_graphs())
@settings(max_examples=COUNT, deadline=None)
def test_back_says_of_every_value_which_paths_lead_from_it(graph: PathGraph) -> None:
    """Lists of the readers on every way to an output, beside those that a recursion over readers finds."""
    end: list[list[str]] = [[]]
    made = dict(back(graph, end, lambda _, parts: [way for part in parts for way in part], _ahead))
    assert list(made) == [*(op.name for op in reversed(graph.ops)), *(value.name for value in graph.inputs)]
    assert {name: sorted(ways) for name, ways in made.items()} == {name: sorted(ways_from(graph, name)) for name in made}


def _ahead(op: Op, ways: list[list[str]]) -> list[list[list[str]]]:
    return [[[op.name, *way] for way in ways] for _ in op.inputs]


def ways_from(graph: PathGraph, name: str) -> list[list[str]]:
    ends: list[list[str]] = [[]] if name in graph.outputs else []
    reads = [op for op in graph.ops for read in op.inputs if read == name]
    return ends + [[op.name, *way] for op in reads for way in ways_from(graph, op.name)]


def test_back_joins_nothing_where_nothing_is_said() -> None:
    graph = chain(Gate("relu"), Gate("tanh"))
    found = dict(back(graph, 1, lambda _, parts: sum(parts), lambda op, value: [None if op.name == "v1" else value]))
    assert found == {"v1": 1, "v0": 0, "x": 0}


@given(sound_graphs(), st.data())
@settings(max_examples=COUNT, deadline=None)
def test_marks_are_those_values_that_are_said_yes_of(graph: PathGraph, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([*(v.name for v in graph.inputs), *makers(graph)])))
    assert marked(graph, lambda v: v.name in chosen, lambda op, _: op.name in chosen) == chosen


@given(sound_graphs())
@settings(max_examples=COUNT, deadline=None)
def test_every_value_but_outputs_has_one_last_use(graph: PathGraph) -> None:
    freed = [name for names in last_uses(graph).values() for name in names]
    read = {name for op in graph.ops for name in op.inputs}
    assert sorted(freed) == sorted(read - set(graph.outputs))
    assert all(name in graph.ops[i].inputs for i, names in last_uses(graph).items() for name in names)


# facts of graphs, beside what is behind a value ---------------------------------------------------------------------------


def behind(graph: PathGraph, name: str) -> set[str]:
    """A value and all that it is made of."""
    op = makers(graph).get(name)
    return {name} if op is None else {name}.union(*(behind(graph, source) for source in op.inputs))


@given(sound_graphs())
@settings(max_examples=COUNT, deadline=None)
def test_what_depends_on_data_or_parameters_has_them_behind_it(graph: PathGraph) -> None:
    made = makers(graph)
    reads = {name for name, op in made.items() if any(graph.slot(use.slot).role == "parameter" for use in uses(op.map))}
    begins = {v.name for v in graph.inputs} | {name for name, op in made.items() if isinstance(op.map, Frozen)}
    every = [*(v.name for v in graph.inputs), *made]
    assert data_dependent(graph) == {name for name in every if behind(graph, name) & begins}
    assert parametric(graph) == {name for name in every if behind(graph, name) & reads}
    assert carrying(graph, at_data=True) <= carrying(graph, at_data=False) <= data_dependent(graph)


def chain(*maps: object) -> PathGraph:
    """Operations that each read the one before; a product or a sum reads it twice."""
    ops: list[Op] = []
    for i, map in enumerate(maps):
        source = f"v{i - 1}" if i else "x"
        twice = isinstance(map, Product | Merge)
        ops.append(Op(map, (source, source) if twice else (source,), Value(f"v{i}", T)))  # type: ignore[arg-type]
    slots = dict.fromkeys(use.slot for op in ops for use in uses(op.map))
    return PathGraph("net", (Value("x", T),), tuple(Slot(n, T, "parameter") for n in slots), tuple(ops), (ops[-1].name,))


CROSSED: dict[str, tuple[Callable[[], PathGraph], str, tuple[str, ...]]] = {
    "once": (lambda: chain(Dense("a"), Gate("relu"), Dense("b")), "pairs", ()),
    "in series with itself": (lambda: chain(Dense("a"), Dense("b"), Dense("a")), "pairs", ("a",)),
    "side by side": (lambda: chain(Dense("a"), Merge((1, 1)), Dense("b")), "pairs", ()),
    "under both factors": (lambda: chain(Dense("a"), Product("mul"), Dense("b")), "pairs", ("a",)),
    "through one factor at a time": (lambda: chain(Dense("a"), Product("mul"), Dense("b")), "either", ()),
    "a bias of the layer that it weighs": (lambda: chain(Scale("a", "a", (2,))), "pairs", ()),
    "a bias in front of the layer that it weighs": (lambda: chain(Scale(None, "a", (2,)), Scale("a", None, (2,))), "pairs", ("a",)),
}


@pytest.mark.parametrize("name", CROSSED)
def test_what_a_path_may_cross_twice(name: str) -> None:
    build, products, expected = CROSSED[name]
    assert crossed_twice(build(), products) == expected


def test_a_computed_weight_crosses_what_it_is_made_of() -> None:
    graph = chain(Dense("made"), Dense("v"), Dense("w"))
    made = Slot("made", T, "computed", of=("v", "g"), formula="v * g")
    graph = PathGraph("net", graph.inputs, (made, *graph.slots[1:], Slot("g", T, "parameter")), graph.ops, graph.outputs)
    assert crossed_twice(graph) == ("v",)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), st.lists(st.integers(0, 9), max_size=3))
@settings(max_examples=COUNT, deadline=None)
def test_what_is_reached_is_what_lies_behind_the_starts_each_once(edges: list[tuple[int, int]], starts: list[int]) -> None:
    """In cycles too; and each but a start comes behind one that leads to it."""
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(starts)
    found = list(reached(starts, graph.successors))
    assert set(found) == {node for start in starts for node in nx.descendants(graph, start) | {start}}
    assert len(found) == len(set(found))
    assert all(node in starts or set(found[:i]) & set(graph.predecessors(node)) for i, node in enumerate(found))
