"""``paths(...)``: what each argument may be, and what the functional is. See docs/theory.md, section 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pkcompiler.lang.ast import Binary, Call, Expr, Name, Number, Typed
from pkcompiler.lang.check.facts import EDGES, Facts, edge_of, show_axes
from pkcompiler.lang.functions.closed import Mass
from pkcompiler.lang.functions.record import Argument, Checker, Function, Value, Writer
from pkcompiler.lang.rows import Word, suggest
from pkcompiler.lang.syntax.format import print_expr

_ONES = Value("ones", "every entry counts 1")
_DATA = Value("data", "the model's own run on the data decides (for gates: their slopes; data^2 squares them)")
ARGUMENTS = (
    Argument("edge", "edge", "what a path takes of each weight that it crosses", "abs(theta)"),
    Argument("input", "input", "the weight of each input entry", "ones", (_ONES,)),
    Argument(
        "gates",
        "gates",
        "what a path takes of each gate (activation)",
        "open",
        (
            Value("open", "every gate is at its gain, the largest size of its slope"),
            _DATA,
            Value("expected", "the expected slope over random weights", due=False),
        ),
    ),
    Argument(
        "pools",
        "pools",
        "how paths cross a max-pool",
        "max",
        (
            _DATA,
            Value("max", "the largest path mass of the window goes on"),
            Value("sum", "all path mass of the window goes on"),
        ),
    ),
    Argument(
        "norms",
        "word",
        "how paths cross a LayerNorm or its kin",
        "unit",
        (_DATA, Value("unit", "division by 1: only gain and bias count")),
    ),
    Argument(
        "products",
        "word",
        "how paths cross a product of activations",
        "pairs",
        (
            Value("pairs", "ordered pairs of paths, one from each factor"),
            Value("value", "paths of the factor that does not modulate; of either, where none or both do"),
            Value("either", "paths of either factor, while the other one is frozen"),
        ),
    ),
    Argument(
        "constants",
        "word",
        "whether fixed constants are sources of paths",
        "off",
        (
            Value("off", "only inputs and parameters are sources of paths"),
            Value("on", "constants are sources of paths, too"),
        ),
    ),
    Argument(
        "output",
        "output",
        "the weight of each output",
        "ones",
        (
            _ONES,
            Value("each", "one value per output: the functional has the axis [output]"),
            Value("loss_gradient", "the derivative of the mean loss by each output of each sample"),
        ),
    ),
)
DEFAULTS: Mapping[str, str] = {argument.name: argument.default for argument in ARGUMENTS}
LOSS_GRADIENT = Name("loss_gradient")
_VALUES = {"abs(theta)": "|v_p|", "theta^2": "v_p^2", "theta": "v_p", "1": ""}


def _facts(checker: Checker, call: Call) -> Facts:
    """[output] with ``output = each``, plus [sample] where un-averaged data is read."""
    given = dict(call.kwargs)
    edge = _edge(checker, given.get("edge"))
    words = [a for a in ARGUMENTS if a.name in ("gates", "pools", "norms", "products", "constants")]
    choices = {a.name: _choice(checker, a, given[a.name]) for a in words if a.name in given}
    run = any(choices.get(key, "").startswith("data") for key in ("gates", "pools", "norms"))
    entries = _input(checker, given.get("input"))
    ends = _output(checker, given.get("output"))
    sample = run or "sample" in (entries.axes or ()) or given.get("output") == LOSS_GRADIENT
    axes = None
    if ends.axes is not None and entries.axes is not None and edge and all(choices.values()) and not call.args:
        axes = (frozenset({"sample"}) if sample else frozenset()) | ends.axes
    both = entries.join(ends, axes)
    edges = both.edges | ({edge} if edge else set())
    return replace(both, axes=axes, edges=edges, data=both.data or run, varies=False)


def edge_given(given: Mapping[str, Expr], lets: Mapping[str, Expr]) -> str:
    """The edge of a functional with these arguments."""
    return edge_of(given["edge"], lets) if "edge" in given else DEFAULTS["edge"]


def _edge(checker: Checker, expr: Expr | None) -> str:
    if expr is None:
        return DEFAULTS["edge"]
    edge = edge_of(expr, checker.scope.lets)
    facts = checker.facts(expr)
    if edge or facts.axes is None:
        return edge
    message = f"'{print_expr(expr)}' is not an edge"
    checker.error("PKC105", message, expr.span, f"must be {', '.join(EDGES[:-1])} or 1", "write edge = abs(theta)")
    return ""


def _choice(checker: Checker, argument: Argument, expr: Expr) -> str:
    """The word given, ``data^2`` included; '' after an error."""
    key, squared = argument.name, argument.name == "gates"
    if squared and expr == Binary("^", Name("data"), Number(2)):
        return "data^2"
    value = next((v for v in argument.values if expr == Name(v.name)), None)
    if value is not None and value.due:
        return value.name
    known = argument.names + (["data^2"] if squared else [])
    if value is not None:
        checker.later(Word(value.name, "value", (key,), value.doc), expr.span, f"write {key} = {known[0]}")
        return ""
    close = suggest(print_expr(expr), known)
    note = f"did you mean '{close}'?" if close else f"write {key} = {known[0]}"
    checker.error("PKC105", f"{key} = {print_expr(expr)}", expr.span, f"must be {' | '.join(known)}", note)
    return ""


def _input(checker: Checker, expr: Expr | None) -> Facts:
    if expr is None or expr == Name("ones"):
        return Facts(frozenset())
    facts = checker.facts(expr)
    if facts.axes is None or "input" in facts.axes:
        return facts
    message = f"input = {print_expr(expr)} has no axis of the input, it is {show_axes(facts.axes)}"
    checker.error("PKC111", message, expr.span, "must be ones, or have [input]", "write input = mean(data)")
    return Facts(None, data=facts.data)


def _output(checker: Checker, expr: Expr | None) -> Facts:
    if expr is None or expr == Name("ones"):
        return Facts(frozenset())
    if expr == Name("each"):
        return Facts(frozenset({"output"}))
    if expr == LOSS_GRADIENT:
        return Facts(frozenset(), data=True)
    facts = checker.facts(expr)
    if facts.axes is None:
        return facts
    if facts.axes == {"output"}:
        return replace(facts, axes=frozenset())
    message = f"output = {print_expr(expr)} is {show_axes(facts.axes)}"
    note = f"write output = sum({print_expr(expr)}, over = sample)" if facts.axes == {"sample", "output"} else "write output = ones"
    checker.error("PKC111", message, expr.span, "must be ones, each, or have the axis [output]", note)
    return Facts(None, data=facts.data)


# what it is -------------------------------------------------------------------------------------------------------------


def path_edge(call: Typed) -> str:
    """The edge of a functional."""
    return call.named["edge"].edge if "edge" in call.named else DEFAULTS["edge"]


def path_mass(writer: Writer, call: Typed) -> Mass:
    """The path mass through entry i of a functional."""
    edge, entry = path_edge(call), call.named.get("input")
    factors = ["n_ip"] + ([_VALUES[edge]] if _VALUES[edge] else [])
    positive = edge != "theta" and call.named.keys() <= {"edge", "input"} and call.words.get("output") != LOSS_GRADIENT.value
    if entry is not None:
        text = writer.text(entry, "")
        factors.append(f"{text}[s(p)]" if isinstance(entry.expr, Name | Call) else f"({text})[s(p)]")
        positive = positive and writer.not_negative(entry)
    return Mass(f"sum over paths p through i of {' '.join([*factors, *_gates_and_ends(writer, call)])}", positive, call)


def _gates_and_ends(writer: Writer, call: Typed) -> list[str]:
    factors = ["a_p"] if call.words["gates"] != DEFAULTS["gates"] else []
    if "output" in call.named:
        return [*factors, f"({writer.text(call.named['output'], '')})[k(p)]"]
    return [*factors, "(loss_gradient)[k(p)]"] if call.words.get("output") == LOSS_GRADIENT.value else factors


def _meaning(writer: Writer, call: Typed) -> str:
    factors = [_VALUES[path_edge(call)] or "1"]
    if "input" in call.named:
        factors.append(f"({writer.text(call.named['input'], '')})[s(p)]")
    return f"sum over paths p of {' '.join([*factors, *_gates_and_ends(writer, call)])}"


def argument_lines(call: Typed) -> list[str]:
    """One line for each argument that is not the default, apart from the edge."""
    free = {"input": "the weight of input entry s(p)", "output": "the weight of output k(p)"}
    lines = []
    for key, expr in call.call.kwargs:
        shown = print_expr(expr)
        if key == "edge" or shown == DEFAULTS[key]:
            continue
        values = next(argument.values for argument in ARGUMENTS if argument.name == key)
        meaning = next((v.doc for v in values if v.name == shown), free.get(key, ""))
        if key == "gates":
            squared = " squared" if shown == "data^2" else ""
            meaning = f"a_p is the product of the{squared} slopes of its gates, over their gains"
        lines.append(f"{key} = {shown}: {meaning}")
    return lines


def _letters(calls: Sequence[Typed]) -> list[str]:
    lines = [line for call in calls for line in argument_lines(call)]
    return ["v_p = c_p times the product of the weights on p, at theta * mask", *lines]


FUNCTIONS = (
    Function(
        name="paths",
        doc="a path functional: the sum over all paths of the product of their edges",
        example="paths(edge = abs(theta))",
        facts=_facts,
        count=None,
        arguments=ARGUMENTS,
        moves=True,
        meaning=_meaning,
        letters=_letters,
    ),
)
