"""Every path of a :class:`Dag`, one by one, and the path functionals as sums over them (docs/theory.md, sections 1, 2, 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from oracle.dag import Dag, Divide, Gate, Input, Max, Mul, One, SoftmaxEntry, Sum
from oracle.gates import BOUNDED, GATES


class Path(NamedTuple):
    """One path (through pairs: one tuple of paths). ``parameters`` is a multiset, ``gates`` and ``frozen`` are node numbers.

    ``values``: the nodes whose own value multiplies the path (factors of products that are frozen at the data).
    """

    coefficient: float
    sources: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    gates: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()
    values: tuple[int, ...] = ()


UNIT = Path(1.0)


def join(p: Path, q: Path) -> Path:
    """The pair of two paths through a product."""
    return Path(p.coefficient * q.coefficient, *(a + b for a, b in zip(p[1:], q[1:], strict=True)))


@dataclass(frozen=True, slots=True)
class Structure:
    """What decides which paths there are. ``at_data``: softmax and factors are frozen at the data; ``deviations``: kept."""

    constants: bool = False
    products: str = "pairs"
    centring: bool = False
    at_data: bool = False
    deviations: bool = False


Chooser = Callable[[int, Sequence[list[Path]]], int]


def list_paths(dag: Dag, structure: Structure, choose: Chooser | None = None) -> list[list[Path]]:
    """All paths to each output, in the order of ``dag.outputs``.

    ``choose(node, lists)`` picks the input of a max node; without it a window passes the paths of all its inputs.
    """
    if choose is None and structure in dag.cache:
        return dag.cache[structure]
    lists: list[list[Path]] = []
    for number in range(len(dag.nodes)):
        lists.append(_paths_of(dag, number, lists, structure, choose))
    result = [lists[o] for o in dag.outputs]
    if choose is None:
        dag.cache[structure] = result
    return result


def _paths_of(dag: Dag, number: int, lists: list[list[Path]], structure: Structure, choose: Chooser | None) -> list[Path]:
    match dag.nodes[number]:
        case One():
            return [UNIT]
        case Input(position):
            return [Path(1.0, (position,))]
        case Sum(edges):
            kept = [e for e in edges if _keeps(e.kind, structure)]
            return [
                p._replace(coefficient=p.coefficient * e.coefficient, parameters=p.parameters + e.parameters)
                for e in kept
                for p in lists[e.source]
            ]
        case Gate(source, phi):
            zero = GATES[phi].zero
            constant = [Path(zero)] if structure.constants and zero else []
            return [p._replace(gates=(*p.gates, number)) for p in lists[source]] + constant
        case Max(sources):
            if choose is None:
                return [p for s in sources for p in lists[s]]
            return lists[sources[choose(number, [lists[s] for s in sources])]]
        case Mul(left, right):
            return _through_product(dag, left, right, lists, structure)
        case Divide(source):
            return [p._replace(frozen=(*p.frozen, number)) for p in lists[source]] if structure.deviations else lists[source]
        case SoftmaxEntry(scores, which):
            if structure.at_data:
                return [UNIT._replace(frozen=(number,))]
            share = 1.0 / len(scores)
            return [p._replace(coefficient=p.coefficient * share) for p in lists[scores[which]]]
    raise AssertionError(number)


def _through_product(dag: Dag, left: int, right: int, lists: list[list[Path]], structure: Structure) -> list[Path]:
    """Pairs; or the paths of one factor, each with what the other is frozen at, where inputs reach both."""
    fed = _fed(dag, structure.at_data)
    if structure.products == "pairs" or not (fed[left] and fed[right]):
        return [join(p, q) for p in lists[left] for q in lists[right]]
    found = []
    one, other = (structure.products == "value" and _modulates(dag, n) for n in (left, right))
    if not one or one == other:
        found += [join(p, q) for p in lists[left] for q in _at_rest(dag, right, structure)]
    if not other or one == other:
        found += [join(p, q) for p in lists[right] for q in _at_rest(dag, left, structure)]
    return found


def _fed(dag: Dag, at_data: bool) -> list[bool]:
    """Which nodes a path from an input reaches."""
    if ("fed", at_data) not in dag.cache:
        fed: list[bool] = []
        for node in dag.nodes:
            match node:
                case Input():
                    fed.append(True)
                case One():
                    fed.append(False)
                case Sum(edges):
                    fed.append(any(fed[e.source] for e in edges))
                case Gate(source) | Divide(source):
                    fed.append(fed[source])
                case Max(sources):
                    fed.append(any(fed[s] for s in sources))
                case Mul(left, right):
                    fed.append(fed[left] or fed[right])
                case SoftmaxEntry(scores):
                    fed.append(not at_data and any(fed[s] for s in scores))
        dag.cache["fed", at_data] = fed
    return dag.cache["fed", at_data]


def _modulates(dag: Dag, number: int) -> bool:
    """Behind a softmax, a bounded gate or a deviation, with nothing between but factors, biases, and means of such."""
    match dag.nodes[number]:
        case SoftmaxEntry() | Divide():
            return True
        case Gate(_, phi):
            return phi in BOUNDED
        case Sum(edges):
            from_values = [e for e in edges if e.source != 0]
            alone = len(from_values) == 1 or not any(e.parameters for e in from_values)
            return alone and bool(from_values) and all(_modulates(dag, e.source) for e in from_values)
    return False


def _at_rest(dag: Dag, number: int, structure: Structure) -> list[Path]:
    """What a frozen factor multiplies a path by, through all that no parameter enters, as a sum of fixed factors: recorded values
    and all numbers at the data; without, 1 or the share of a softmax."""
    match dag.nodes[number]:
        case SoftmaxEntry(scores) if not structure.at_data:
            return [Path(1.0 / len(scores))]
        case Sum(edges) if not any(e.parameters for e in edges):
            kept = [e for e in edges if structure.at_data or _keeps(e.kind, structure)]
            return [p._replace(coefficient=p.coefficient * e.coefficient) for e in kept for p in _at_rest(dag, e.source, structure)]
        case Mul(left, right) if all(_fed(dag, structure.at_data)[n] for n in (left, right)):
            return [join(p, q) for p in _at_rest(dag, left, structure) for q in _at_rest(dag, right, structure)]
    return [UNIT._replace(values=(number,))] if structure.at_data else [UNIT]


def _keeps(kind: str, structure: Structure) -> bool:
    if kind == "constant":
        return structure.constants
    return structure.centring if kind == "centre" else True


@dataclass(frozen=True, slots=True)
class Record:
    """The model's own run at one sample: the value of every node, and the slope or frozen factor of those that have one."""

    values: np.ndarray
    factors: np.ndarray


def run(dag: Dag, theta: np.ndarray, x: np.ndarray) -> Record:
    """Evaluate the network itself, with its real nonlinearities. ``theta`` [parameters], ``x`` [inputs]."""
    z, factor = np.zeros(len(dag.nodes)), np.ones(len(dag.nodes))
    for number, node in enumerate(dag.nodes):
        match node:
            case One():
                z[number] = 1.0
            case Input(position):
                z[number] = x[position]
            case Sum(edges):
                z[number] = math.fsum(e.coefficient * math.prod(theta[i] for i in e.parameters) * z[e.source] for e in edges)
            case Gate(source, phi):
                z[number], factor[number] = GATES[phi].value(z[source]), GATES[phi].slope(z[source])
            case Max(sources):
                z[number] = max(z[s] for s in sources)
            case Mul(left, right):
                z[number] = z[left] * z[right]
            case Divide(source):
                factor[number] = 1.0 / _deviation(node, z)
                z[number] = z[source] * factor[number]
            case SoftmaxEntry(scores, which):
                weights = np.exp(z[list(scores)] - z[list(scores)].max())
                z[number] = factor[number] = weights[which] / weights.sum()
    return Record(z, factor)


def _deviation(node: Divide, z: np.ndarray) -> float:
    members = z[list(node.group)]
    centre = members.mean() if node.kind == "layer" else 0.0
    return math.sqrt(((members - centre) ** 2).mean() + node.eps)


@dataclass(frozen=True, slots=True)
class Setting:
    """The arguments of a path functional, by the names of the language."""

    edge: str = "abs(theta)"
    input: str = "ones"
    gates: str = "open"
    pools: str = "max"
    norms: str = "unit"
    products: str = "pairs"
    constants: str = "off"

    @property
    def signed(self) -> bool:
        return self.edge == "theta"

    @property
    def per_sample(self) -> bool:
        return self.input in ("data", "data^2") or self.gates != "open" or self.pools == "data" or self.norms == "data"

    def structure(self) -> Structure:
        at_data = self.gates != "open"
        if self.norms == "data" and not at_data:
            raise ValueError("deviations from data with open gates have no defined power")
        return Structure(self.constants == "on", self.products, self.signed, at_data, self.norms == "data")


@dataclass(frozen=True, slots=True)
class Result:
    """``each`` [outputs] summed over samples, ``value``, ``grad`` [parameters]; ``mass``, ``grad_mass``: sums of absolute terms."""

    each: np.ndarray
    value: float
    grad: np.ndarray
    mass: float
    grad_mass: np.ndarray
    paths: int


def evaluate(
    dag: Dag,
    theta: np.ndarray,
    setting: Setting,
    *,
    mask: np.ndarray | None = None,
    data: np.ndarray | None = None,
    output: np.ndarray | None = None,
) -> Result:
    """The functional, and its derivative by the edge transform, as sums over all paths.

    ``theta``, ``mask`` [parameters]; ``data`` [samples, inputs]; ``output`` [outputs], ones by default. Summed over the
    samples where a sample is read un-averaged.
    """
    mask = np.ones_like(theta) if mask is None else mask
    output = np.ones(len(dag.outputs)) if output is None else output
    edges = {"theta": theta * mask, "abs(theta)": abs(theta * mask), "theta^2": (theta * mask) ** 2, "1": mask}[setting.edge]
    total = np.zeros(len(dag.outputs))
    grad, grad_mass, mass, count = np.zeros_like(theta), np.zeros_like(theta), 0.0, 0
    for x in data if setting.per_sample else [None]:
        record = None if x is None else run(dag, theta * mask, x)
        weigher = Weigher(setting, edges, input_weights(dag, setting, x, data), record, gains_of(dag))
        for k, paths in enumerate(list_paths(dag, setting.structure(), chooser(dag, setting, weigher))):
            if not paths:
                continue
            values, slots, slot_values = weigher(paths)
            total[k] += math.fsum(values)
            mass += abs(output[k]) * math.fsum(abs(values))
            np.add.at(grad, slots, output[k] * slot_values)
            np.add.at(grad_mass, slots, abs(output[k] * slot_values))
            count += len(paths)
    return Result(total, float(output @ total), grad, mass, grad_mass, count)


def input_weights(dag: Dag, setting: Setting, x: np.ndarray | None, data: np.ndarray | None) -> np.ndarray:
    match setting.input:
        case "ones":
            return np.ones(dag.inputs)
        case "data":
            return x
        case "data^2":
            return x**2
        case "mean(data)":
            return data.mean(axis=0)
        case "mean(data^2)":
            return (data**2).mean(axis=0)
    raise ValueError(setting.input)


def chooser(dag: Dag, setting: Setting, weigher: Weigher) -> Chooser | None:
    """pools = sum: none; max: the largest accumulated value; data: the winner of the model's own run. The first of equals."""
    if setting.pools == "sum" or not any(isinstance(n, Max) for n in dag.nodes):
        return None
    if setting.pools == "max":
        return lambda number, lists: int(np.argmax([math.fsum(weigher(paths)[0]) if paths else 0.0 for paths in lists]))
    values = weigher.record.values
    return lambda number, lists: int(np.argmax(values[list(dag.nodes[number].sources)]))


def gains_of(dag: Dag) -> np.ndarray:
    """The gain of every node, 1 where it is no gate."""
    return np.array([GATES[n.phi].gain if isinstance(n, Gate) else 1.0 for n in dag.nodes])


@dataclass(frozen=True, slots=True)
class Weigher:
    """Weighs paths: |c|^q, gains^(q - r), edge values, slopes^r, frozen factors^r, source values (absolute unless signed)."""

    setting: Setting
    edges: np.ndarray
    inputs: np.ndarray
    record: Record | None
    gains: np.ndarray

    def __call__(self, paths: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Path values [P]; then, one entry per crossing, the parameter index and the value with that crossing left out."""
        power = {"theta": 1, "abs(theta)": 1, "theta^2": 2, "1": 0}[self.setting.edge]
        rest = np.array([p.coefficient for p in paths])
        rest = rest if self.setting.signed else abs(rest) ** power
        rest = rest * _products(self.inputs, [p.sources for p in paths])
        r = {"open": 0, "data": 1, "data^2": 2}[self.setting.gates]
        rest = rest * _products(self.gains ** float(power - r), [p.gates for p in paths])
        if self.record is not None:
            seen = (self.record.factors, self.record.values)
            factors, values = ((v if self.setting.signed else abs(v)) ** r for v in seen)
            rest = rest * _products(factors, [p.gates + p.frozen for p in paths]) * _products(values, [p.values for p in paths])
        table = _padded([p.parameters for p in paths], len(self.edges))
        crossed = np.append(self.edges, 1.0)[table]
        slots = [np.delete(crossed, c, axis=1).prod(axis=1) * rest for c in range(table.shape[1])]
        without = np.stack(slots, axis=1) if slots else np.zeros((len(paths), 0))
        real = table < len(self.edges)
        return crossed.prod(axis=1) * rest, table[real], without[real]


def _padded(rows: list[tuple[int, ...]], filler: int) -> np.ndarray:
    width = max((len(r) for r in rows), default=0)
    return np.array([[*r, *[filler] * (width - len(r))] for r in rows], dtype=int).reshape(len(rows), width)


def _products(values: np.ndarray, rows: list[tuple[int, ...]]) -> np.ndarray:
    return np.append(values, 1.0)[_padded(rows, len(values))].prod(axis=1)


def path_jacobian(
    dag: Dag, theta: np.ndarray, *, constants: str = "on", products: str = "pairs", mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """v [paths] and J [paths, parameters], J_pi = n_ip v_p / theta_i, of all paths to all outputs (pools = sum).

    With a mask, paths are evaluated at theta * mask and the columns of dropped parameters are zero.
    """
    mask = np.ones_like(theta) if mask is None else mask
    setting = Setting(edge="theta", pools="sum", constants=constants)
    structure = Structure(constants=constants == "on", products=products)
    paths = [p for listed in list_paths(dag, structure) for p in listed]
    weigher = Weigher(setting, theta * mask, np.ones(dag.inputs), None, gains_of(dag))
    values, jacobian = np.zeros(len(paths)), np.zeros((len(paths), len(theta)))
    for row, path in enumerate(paths):
        value, slots, without = weigher([path])
        values[row] = value[0]
        np.add.at(jacobian[row], slots, without)
    return values, jacobian * mask


def gram(dag: Dag, theta: np.ndarray, *, constants: str = "on", mask: np.ndarray | None = None) -> np.ndarray:
    """G = J^T J [parameters, parameters]; its trace is the trace of the Path Kernel."""
    _, jacobian = path_jacobian(dag, theta, constants=constants, mask=mask)
    return jacobian.T @ jacobian


SCORES = ("synflow", "synflow-l2", "synflow-l2-authors", "synflow-l2-phew", "synflow-dist", "synflow-l2-dist")


def scores(dag: Dag, theta: np.ndarray, name: str, *, mask: np.ndarray | None = None, data: np.ndarray | None = None) -> np.ndarray:
    """The scores of docs/theory.md, section 5, per parameter, at theta * mask (derivatives exist where the mask is 0 too)."""
    squared = name in ("synflow-l2", "synflow-l2-phew", "synflow-l2-dist")
    given = {"synflow-dist": "mean(data)", "synflow-l2-dist": "mean(data^2)"}.get(name, "ones")
    setting = Setting(edge="theta^2" if squared else "abs(theta)", input=given, products="either")
    derivative = evaluate(dag, theta, setting, mask=mask, data=data).grad
    weight = {"synflow": abs(theta), "synflow-dist": abs(theta), "synflow-l2-phew": abs(theta)}.get(name, theta**2)
    return weight * derivative
