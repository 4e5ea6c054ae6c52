"""What the forward of a model reaches beside the model, as far as its code tells: functions, and the state that these keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType

from torch import nn

from pkcompiler.frontend.faithful import LIBRARIES


@dataclass(frozen=True, slots=True)
class Reached:
    """``functions``: of the user's own, each with all the names that its code says; ``values``: what lies outside of the modules,
    by the owner in words and the name there.
    """

    functions: dict[FunctionType, frozenset[str]]
    values: dict[tuple[str, str], object]


def reached(model: nn.Module) -> Reached:
    """From the forwards of all modules: over methods, global names, variables of enclosing functions, and defaults."""
    found = Reached({}, {})
    for module in model.modules():
        _add_module(module, found)
    return found


def names_read(module: nn.Module) -> frozenset[str]:
    """All names in the code that a call of one module runs, without those of its parts."""
    found = Reached({}, {})
    _add_module(module, found)
    return frozenset[str]().union(*found.functions.values())


def _add_module(module: nn.Module, found: Reached) -> None:
    classes = [kind for kind in type(module).__mro__ if is_own(kind)]
    kept = [_plain(value) for value in vars(module).values()]
    work = [_plain(vars(kind)["forward"]) for kind in classes if "forward" in vars(kind)]
    work += [value for value in kept if isinstance(value, FunctionType)]
    for kind in classes:
        _add_class(kind, found)
    _follow([f for f in work if isinstance(f, FunctionType)], classes, found)


def _follow(work: list[FunctionType], classes: list[type], found: Reached) -> None:
    seen: set[FunctionType] = set()
    while work:
        function = work.pop()
        if function in seen or not is_own(function):
            continue
        seen.add(function)
        names = found.functions[function] = frozenset(_names(function.__code__))
        methods = [_plain(vars(kind)[name]) for kind in classes for name in names & vars(kind).keys()]
        around = [_plain(value) for value in _around(function, names, found)]
        work += [value for value in (*methods, *around) if isinstance(value, FunctionType)]


def _around(function: FunctionType, names: frozenset[str], found: Reached) -> Iterator[object]:
    """What a function reads that is no argument of a call; each is noted in ``found``."""
    where = f"the global names of {function.__module__!r}"
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            own = vars(value) if value.__name__.split(".")[0] not in LIBRARIES else {}
            found.values.update({(f"module {value.__name__!r}", n): own[n] for n in names & own.keys()})
            yield from (own[n] for n in names & own.keys())
        elif isinstance(value, type):
            _add_class(value, found)
        else:
            found.values[where, name] = value
            yield value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if isinstance(value, type):
            _add_class(value, found)
            continue
        found.values[f"the variables around {function.__qualname__}", name] = value
        yield value
    given = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    found.values[f"the function {function.__qualname__}", "defaults"] = given
    yield from given


def _add_class(kind: type, found: Reached) -> None:
    if not is_own(kind):
        return
    own = {name: value for name, value in vars(kind).items() if not (name.startswith("__") or name == "_abc_impl")}
    found.values.update({(f"class {kind.__name__!r}", name): value for name, value in own.items()})


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _plain(value: object) -> object:
    """The function that a class attribute or a bound method is made of, where it is made of one."""
    if isinstance(value, staticmethod | classmethod | MethodType):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    return value


def is_own(kind: type | FunctionType) -> bool:
    """Whether a class or a function is defined outside of the libraries that are known."""
    return (kind.__module__ or "").split(".")[0] not in LIBRARIES
