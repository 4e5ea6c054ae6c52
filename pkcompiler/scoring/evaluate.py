"""Expressions of the language, evaluated: path functionals by sweeps, the loss by the model, derivatives by reverse mode.

A derivative is always taken by the leaves that an expression stands on (the edges t(theta) * mask of its path functionals, or the
effective weights theta * mask of the loss) and carried over to what the expression asked for by the chain rule, so that it exists
where the mask is 0 too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pkcompiler.diagnostics import fail
from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Unary
from pkcompiler.lang.check.facts import edge_of, resolve
from pkcompiler.lang.functions.balance import balance_numbers
from pkcompiler.lang.functions.derivatives import as_grad as second_derivative
from pkcompiler.lang.functions.derivatives import differs_under_grad, holds_derivative
from pkcompiler.lang.functions.kernels import quantile_part
from pkcompiler.lang.functions.paths import DEFAULTS, LOSS_GRADIENT
from pkcompiler.lang.functions.walks import KERNELS
from pkcompiler.lang.syntax.format import print_expr
from pkcompiler.paths.semiring import settings
from pkcompiler.scoring import terms
from pkcompiler.scoring.functions import after, derivatives, noise
from pkcompiler.scoring.functions.balance.balance import balanced
from pkcompiler.scoring.functions.squares import squares
from pkcompiler.scoring.functions.walks.visits import visits
from pkcompiler.scoring.streams import Draw
from pkcompiler.scoring.terms import PARAM, Term
from pkcompiler.scoring.workspace import Leaf, Workspace, reads_samples

UNARY: dict[str, Callable[[Term], Term]] = {
    "abs": terms.absolute,
    "sqrt": terms.square_root,
    "exp": terms.exponential,
    "log": terms.logarithm,
    "sign": terms.sign,
}


@dataclass(slots=True)
class Evaluator:
    """Evaluates expressions at one mask. ``lets``: what their names stand for, ``work``: what they are evaluated with."""

    lets: Mapping[str, Expr]
    work: Workspace
    seed: int
    _values: dict[tuple[str, int], tuple[Term, list[Leaf]]] = field(default_factory=dict)
    _leaves: list[Leaf] = field(default_factory=list)
    _constant: bool = False  # inside detach(...): nothing is derived through what is evaluated
    _again: bool = False  # inside grad(...): derivatives keep their graph, and theta is a leaf
    draw: Draw | None = None  # of noise() and after(); None: those of the seed
    _noises: dict[int, int] = field(default_factory=dict)  # the noise() calls met so far, by identity, in order
    _statistics: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)  # of the inputs met so far, by identity

    def evaluate(self, expr: Expr) -> Term:
        """The value of an expression that has been checked."""
        match expr:
            case Number(value):
                return terms.number(value, self.work.dtype)
            case Name(name):
                return self._name(name)
            case Unary(operand=operand):
                return terms.negate(self.evaluate(operand))
            case Binary("*", factor, Call("grad", (functional, by))) | Binary("*", Call("grad", (functional, by)), factor) if (
                not self._again and self._is_own(factor, by)
            ):
                return self._grad(functional, by, times_itself=True)
            case Binary(op, left, right):
                return terms.binary(op, self.evaluate(left), self.evaluate(right))
            case Call():
                return self._call(expr)
        raise fail("PKC110", f"'{print_expr(expr)}' is no value", span=expr.span)

    def _name(self, name: str) -> Term:
        if name in self.lets:
            return self._let(name)
        match name:
            case "theta":
                return self._stored() if self._again else Term(PARAM, self.work.theta)
            case "mask":
                return Term(PARAM, self.work.mask)
            case "prunable":
                return Term(PARAM, self.work.may_be_pruned)
            case "data":
                return Term(frozenset({"sample", "input"}), self.work.data)
            case "loss" | "losses" | "output":
                return self._run(name)
            case "samples":
                return terms.number(self.work.count, self.work.dtype)
        raise fail("PKC103", f"'{name}' has no value here")

    def _let(self, name: str) -> Term:
        """A name's value, computed once; using it again stands on the same leaves."""
        kind = 0 if self._constant else 2 if self._again and differs_under_grad(self.lets[name], self.lets) else 1
        key = (name, next((k for k in range(kind, 3) if (name, k) in self._values), kind))
        if key not in self._values:
            outer, self._leaves = self._leaves, []
            value = self.evaluate(self.lets[name])
            self._values[key] = (replace(value, owned=False), self._leaves)
            self._leaves = outer
        return self._known(key)

    def _known(self, key: tuple[str, int]) -> Term:
        value, leaves = self._values[key]
        self._leaves = self._leaves + [leaf for leaf in leaves if leaf not in self._leaves]
        return value

    def _run(self, name: str) -> Term:
        """What the model's own run gives, computed once."""
        key = (name, int(self.work.twice))
        if key not in self._values:
            runs = {"loss": self.work.loss, "losses": self.work.losses, "output": self.work.output}
            value, leaf = runs[name]()
            self._values[key] = (value, [leaf])
        return self._known(key)

    def _stored(self) -> Term:
        if ("theta", 2) not in self._values:
            value, leaf = derivatives.stored(self.work)
            self._values["theta", 2] = (value, [leaf])
        return self._known(("theta", 2))

    def _leafy(self, made: tuple[Term, Leaf]) -> Term:
        if made[1] not in self._leaves:
            self._leaves.append(made[1])
        return made[0]

    def _call(self, call: Call) -> Term:
        kwargs = dict(call.kwargs)
        match call.function:
            case "paths":
                return self._paths(kwargs)
            case "grad":
                return self._grad(call.args[0], call.args[1])
            case "hvp":
                functional, by = second_derivative(call).args
                return self._grad(functional, by)
            case "detach":
                return self._detached(call.args[0])
            case "squares":
                of, by = (resolve(arg, self.lets) for arg in call.args)
                return Term(PARAM, squares(self.work, of == Name("losses"), by_mask=by == Name("mask")))
            case "uniform":
                return Term(PARAM, self._uniform())
            case "walks":
                whole = kwargs.get("keep") == KERNELS
                return visits(self.work, self.evaluate(call.args[0]), self.draw or Draw(self.seed), whole=whole)
            case "balance":
                return balanced(self.work, self.evaluate(call.args[0]), *balance_numbers(call))
            case "noise":
                return self._noise(call)
            case "model":
                return self._model(call)
            case "after":
                return self._after(call)
            case "dot":
                return terms.dot(self.evaluate(call.args[0]), self.evaluate(call.args[1]))
            case "cross_entropy":
                return self.work.cross_entropy(self.evaluate(call.args[0]))
            case "sum" | "mean" | "norm2" | "max":
                over = kwargs.get("over", Name("sample"))
                assert isinstance(over, Name)
                return terms.reduce(call.function, self.evaluate(call.args[0]), over.value, call.span)
            case "quantile":
                over, part = kwargs["over"], quantile_part(None, call)
                assert isinstance(over, Name) and part is not None
                return terms.quantile(self.evaluate(call.args[0]), part, over.value)
            case "margin":
                return self.work.margin(self.evaluate(call.args[0]))
        return UNARY[call.function](self.evaluate(call.args[0]))

    # drawn, and run elsewhere -----------------------------------------------------------------------------------------

    def _sampled(self, input: Expr | None, source: str | Tensor) -> bool:
        """Whether the weights of the input belong to one sample, not to all of them."""
        return isinstance(source, Tensor) and len(source) == 1 and input is not None and "sample" in self.evaluate(input).axes

    def _noise(self, call: Call) -> Term:
        """Every noise() that is written is one draw, wherever and however often it is read."""
        number, draw = self._noises.setdefault(id(call), len(self._noises)), self.draw or Draw(self.seed)
        given = dict(call.kwargs)
        if given.get("axes") == Name("param"):
            return Term(PARAM, noise.noise_like_parameters(self.work.theta, draw, number))
        count = given.get("count")
        size = int(count.value) if isinstance(count, Number) else None
        return Term(frozenset({"sample", "input"}), noise.noise_like_input(self.work.captured, self.work.dtype, size, draw, number))

    def _model(self, call: Call) -> Term:
        given = dict(call.kwargs)
        x = self._entries(call.args[0])
        buffers = self._observed(given["statistics"]) if "statistics" in given else {}
        if "theta" in given:
            weights, leaf = noise.shifted(self.work, self.evaluate(given["theta"]))
        else:
            weights = self.work.effective()
            leaf = self.work.weights_leaf(weights)
        return self._leafy((noise.model_output(self.work, x, weights, buffers), leaf))

    def _entries(self, input: Expr) -> Term:
        """What the model is run on."""
        return noise.data_term(self.work) if resolve(input, self.lets) == Name("data") else self.evaluate(input)

    def _observed(self, input: Expr) -> Mapping[str, Tensor]:
        """The statistics of an input, computed once for every one that is written."""
        key = id(resolve(input, self.lets))
        if key not in self._statistics:
            self._statistics[key] = noise.statistics(self.work, self._entries(input))
        return self._statistics[key]

    def _after(self, call: Call) -> Term:
        """The number at the weights after training, evaluated on its own samples."""
        work, leaf = after.trained(self.work, dict(call.kwargs), self.draw or Draw(self.seed))
        return self._leafy((Evaluator(self.lets, work, self.seed).evaluate(call.args[0]), leaf))

    # path functionals -------------------------------------------------------------------------------------------------

    def _paths(self, given: Mapping[str, Expr]) -> Term:
        words = {k: print_expr(given[k]).replace(" ", "") if k in given else v for k, v in DEFAULTS.items()}
        edge = edge_of(given["edge"], self.lets) if "edge" in given else DEFAULTS["edge"]
        chosen = settings(
            edge=edge,
            gates=words["gates"],
            pools=words["pools"],
            norms=words["norms"],
            products=words["products"],
            constants=words["constants"],
            dtype=self.work.dtype,
        )
        source = self._input(given.get("input"))
        weights = given.get("output", Name("ones"))
        ends: str | Term
        if weights in (Name("ones"), Name("each")):
            ends = weights.value
        else:
            ends = self.work.loss_gradient() if weights == LOSS_GRADIENT else self.evaluate(weights)
        if self._constant and reads_samples(chosen, source):
            return self.work.constant(chosen, source, ends)
        term = self._leafy(self.work.functional(chosen, source, ends))
        return noise.of_one_sample(term) if self._sampled(given.get("input"), source) else term

    def _input(self, expr: Expr | None) -> str | Tensor:
        """One of the words that also serve integer inputs, or the weights themselves."""
        if expr is None or expr == Name("ones"):
            return "ones"
        words = print_expr(resolve(expr, self.lets)).replace(" ", "")
        if words in ("ones", "data", "data^2", "mean(data)", "mean(data^2)"):
            return words
        term = self.evaluate(expr).plain()
        return term.tensor if "sample" in term.axes else term.tensor.unsqueeze(0)

    def _detached(self, expr: Expr) -> Term:
        """An expression's value, which grad takes as a constant: no leaf of it is kept."""
        before = list(self._leaves), self._constant, self._again
        self._constant, self._again = True, False
        value = terms.detach(self.evaluate(expr))
        self._leaves, self._constant, self._again = before
        return value

    # derivatives ------------------------------------------------------------------------------------------------------

    def _is_own(self, factor: Expr, by: Expr) -> bool:
        """Whether a product is u * grad(F, u): theta dF/dtheta and its kin, which need no second pass."""
        edge = edge_of(factor, self.lets)
        return edge not in ("", "1") and edge == edge_of(by, self.lets)

    def _grad(self, functional: Expr, by: Expr, times_itself: bool = False) -> Term:
        known = (f"grad({print_expr(functional)}, {print_expr(by)})", 2)
        if known in self._values and not times_itself:
            return self._known(known) if self._again else terms.detach(self._values[known][0])
        outer, constant, again = self._leaves, self._constant, self._again
        self._leaves, self._constant, self._again = [], False, True
        self.work.twice = self.work.twice or holds_derivative(functional, self.lets)
        value = self.evaluate(functional)
        leaves, self._leaves, self._constant, self._again = self._leaves, outer, constant, again
        wanted = "mask" if resolve(by, self.lets) == Name("mask") else edge_of(by, self.lets)
        if again:
            total, below = derivatives.derivative(self.work, value, leaves, wanted)
            self._values[known] = (total, below)
            return self._known(known)
        with derivatives.refusing():
            parts = [
                self.work.derivative(value, leaf, wanted, times_itself) for leaf in leaves if derivatives.depends(leaf, wanted)
            ]
        if not parts:
            return Term(PARAM, {n: torch.zeros_like(t) for n, t in self.work.theta.items()})
        total = parts[0]
        for part in parts[1:]:
            total = terms.binary("+", total, part)
        return total

    def _uniform(self) -> dict[str, Tensor]:
        """Uniform on [0, 1), drawn per parameter name from the seed: a parameter's numbers do not depend on the others."""
        return {name: seeded_uniform(name, t, self.seed) for name, t in self.work.theta.items()}


def seeded_uniform(name: str, like: Tensor, seed: int) -> Tensor:
    """Uniform numbers in float64 on the CPU, seeded with SHA-256 of seed and name, in the dtype and device of ``like``."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like)
