"""What public functions take, read from their own signatures: an argument of another type is an error that names it.

No torch: its types are known by their names.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import is_dataclass
from fractions import Fraction
from math import inf
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pkcompiler.diagnostics import Diagnostic, raise_all

Given = ParamSpec("Given")
Result = TypeVar("Result")
Class = TypeVar("Class", bound=type)

CHECKED = "checks_its_arguments"
"""The attribute of what is decorated."""

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    bytes: "bytes",
    NoneType: "None",
}
WHOLE = range(-(2**63), 2**64)
"""What torch takes for a whole number, signed or not."""
NUMBERS: tuple[type, ...] = (bool, int, float)
"""The types of Python's own numbers."""
LONGEST = 60  # characters of a value that are shown


def checked(entry: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that takes what its annotations say, and nothing else, numbers as Python's own (:func:`plain`).

    Raises ``PKC211`` for each argument of another type (a NaN is no number; True is no whole number, nor is what 64 bits do not
    hold), ``PKC207`` where that is the model, ``PKC401`` where it is the masks. What is annotated with ``Any`` or a protocol is the
    function's own to check.
    """

    @functools.wraps(entry)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            bound = inspect.signature(entry).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{entry.__qualname__}() {error}") from None
        kinds, given = _kinds(entry), bound.arguments
        given.update({n: plain(v, kinds[n]) for n, v in given.items() if n in kinds})
        raise_all(_unfit(entry.__qualname__, n, v, kinds[n]) for n, v in given.items() if n in kinds and not fits(v, kinds[n]))
        return entry(*bound.args, **bound.kwargs)

    setattr(called, CHECKED, True)
    return called


def methods_checked(kind: Class) -> Class:
    """A class whose public methods, and a constructor that is written out, are :func:`checked` where they take anything."""
    for name, member in list(vars(kind).items()):
        wanted = not is_dataclass(kind) if name == "__init__" else not name.startswith("_")
        if wanted and inspect.isfunction(member) and len(inspect.signature(member).parameters) > 1:
            setattr(kind, name, checked(member))
    return kind


@functools.cache
def _kinds(entry: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of every parameter that has one (of ``*names``: of the tuple of them; of ``**more``: of the dict)."""
    hints = get_type_hints(entry)
    return {n: _of_all(p, hints[n]) for n, p in inspect.signature(entry).parameters.items() if n in hints}


def _of_all(parameter: inspect.Parameter, kind: Any) -> Any:
    """The type of what a parameter is bound to, by that of each value."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return tuple.__class_getitem__((kind, ...))
    return dict.__class_getitem__((str, kind)) if parameter.kind is parameter.VAR_KEYWORD else kind


def plain(value: Any, kind: Any) -> Any:
    """A number in the type of Python's that an annotation says, where it is one of another library's: of numpy, a ``Fraction``.

    A float that is a whole number is one (``limit=1e4``). What names a path is one; a set of texts is a sorted list, the keys
    of a dict are theirs in their order. Anything else is returned as it is.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if type(value) in NUMBERS and fits(value, kind):
            return value
        return next((found for part in inner if fits(found := plain(value, part), part)), value)
    if origin is Literal:
        return value
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        numbers = {k: v if isinstance(v, Fraction) else plain(v, inner[1]) for k, v in value.items()}  # closed forms are exact
        return value if all(numbers[k] is v for k, v in value.items()) else numbers
    if kind is Path and isinstance(value, os.PathLike) and isinstance(text := os.fspath(value), str):
        return Path(text)
    if origin is Sequence and inner == (str,) and isinstance(value, AbstractSet) and fits(list(value), kind):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    if kind is bool and type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if kind not in (int, float) or not isinstance(value, Real) or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    try:
        number = float(value)
    except OverflowError:  # of a fraction
        number = -inf if value < 0 else inf
    return number if kind is float else int(number) if number.is_integer() and number == value else value


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of the type that an annotation says; what holds other values is looked into."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, TypeVar) or getattr(kind, "_is_protocol", False):
        return True
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in inner)
    if origin is Literal:
        return value in inner
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if _is_of_parts(origin, inner):
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if origin is not None and issubclass(origin, Sequence | AbstractSet):
        return isinstance(value, origin) and not isinstance(value, str | bytes) and all(fits(v, inner[0]) for v in value)
    if kind is int:
        return _is_whole(value)
    if kind is float:
        return _is_whole(value) or (isinstance(value, Real) and not isinstance(value, Integral) and value == value)
    return isinstance(value, origin or kind)


def _is_of_parts(origin: Any, inner: tuple[Any, ...]) -> bool:
    """Whether a type is that of tuples of one length, each part of a type of its own."""
    return origin is tuple and Ellipsis not in inner


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) in WHOLE


def words(kind: Any) -> str:
    """A type in words: ``a whole number or None``."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words(part) for part in inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is not None and issubclass(origin, Mapping):
        return f"a dict of {_plural(inner[1])} by name"
    if _is_of_parts(origin, inner):
        return f"a tuple ({', '.join(map(words, inner))})"
    if origin is not None and issubclass(origin, Sequence | AbstractSet):
        return f"a {origin.__name__.lower()} of {_plural(inner[0])}"
    if origin is Callable or kind is Callable:
        return "a function"
    return WORDS.get(kind) or f"a {_name(origin or kind)}"


def _plural(kind: Any) -> str:
    return {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers"}.get(words(kind), f"{_name(kind)}s")


def _name(kind: Any) -> str:
    """``torch.nn.Module``, ``torch.Tensor``; a class of pkcompiler's or of Python's by its bare name."""
    place, name = getattr(kind, "__module__", ""), getattr(kind, "__name__", str(kind))
    if place.startswith("torch.nn"):
        return f"torch.nn.{name}"
    return f"torch.{name}" if place.partition(".")[0] == "torch" else name


def _unfit(function: str, name: str, value: object, kind: Any) -> Diagnostic:
    """The error of one argument."""
    function = function.removesuffix(".__init__")
    shown = "" if value is None or isinstance(value, type) else f", not {_shown(value)}"
    what = "None" if value is None else f"the class {value.__name__}" if isinstance(value, type) else f"a {_name(type(value))}"
    expected = words(kind)
    if "torch.nn.Module" in expected:
        return Diagnostic("PKC207", f"expected {expected}, not {what}", notes=(_model_note(function, value),))
    if name == "masks":
        return Diagnostic("PKC401", f"masks are {_odd(value)}, not {expected}", notes=("give boolean tensors by parameter name",))
    if name == "watched" or not shown:
        return Diagnostic("PKC211", f"{function}: {name} is {what}, expected {expected}", notes=(f"give {name} = {expected}",))
    return Diagnostic("PKC211", f"{function}: {name} = {_shown(value)} {_but(value, what)}", notes=(f"give {name} = {expected}",))


def _but(value: object, what: str) -> str:
    """Why a value does not fit: for a number, what is wrong with it where its type is right."""
    if isinstance(value, Real) and value != value:
        return "is no number"
    if isinstance(value, Integral) and int(value) not in WHOLE:
        return "is more than 64 bits hold"
    return f"is {what}"


def _odd(value: object) -> str:
    """What masks are instead of tensors by name: the first entry that is none."""
    if not isinstance(value, Mapping):
        return f"a {_name(type(value))}"
    name, wrong = next((n, v) for n, v in value.items() if not isinstance(n, str) or _name(type(v)) != "torch.Tensor")
    if not isinstance(name, str):
        return f"named by {_shown(name)}, a {_name(type(name))}"
    return f"a {_name(type(wrong))} for {name!r}"


def _model_note(function: str, value: object) -> str:
    if type(value).__name__ == "PathGraph":
        return f"give {function} the model that the graph was lifted from"
    return f"pass the module itself, e.g. {function}(Net(), x)"


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
