"""What an exported forward is called with: as in the example that it was recorded with, or refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from pkcompiler.lowering.call import check_fixed


class AnyTensor:
    """Stands for every tensor in the values of a call; equal to nothing else."""

    def __repr__(self) -> str:
        return "a tensor"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyTensor)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The call that an exported program repeats: what each parameter of the forward was, and how it was given.

    ``positional``: how many arguments were given by position; ``keywords``: the names of the others.
    """

    signature: inspect.Signature
    positional: int
    keywords: tuple[str, ...]
    values: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Recorded:
        """The call ``model(*args, **kwargs)``; of tensors it is known alone that they are given."""
        signature = inspect.signature(model.forward)
        return cls(signature, len(args), tuple(kwargs), _bare(_bound(signature, args, kwargs)))

    def arranged(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments given as the example's were.

        :raises PkcError: PKC278 where a tensor is given that the example had not, or any other value than the example's.
        """
        given = _bound(self.signature, args, kwargs)
        for name, value in _bare(given).items():
            check_fixed(value, self.values[name], name, advice(self.signature, name, value))
        places = list(self._flat(given))
        return tuple(value for _, value in places[: self.positional]), {
            name: value for name, value in places[self.positional :] if name in self.keywords
        }

    def _flat(self, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """The arguments one by one, in the order of the signature."""
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                yield from ((name, value) for value in given[name])
            elif parameter.kind is parameter.VAR_KEYWORD:
                yield from given[name].items()
            else:
                yield name, given[name]


def advice(signature: inspect.Signature, name: str, value: Any = None) -> str:
    """What to do where the parameter ``name`` is to have this value: the example that gives it, where a tuple or a dict can."""
    parameters = signature.parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    kind = parameters[name].kind
    before = list(takewhile(lambda other: other != name, parameters))
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return _example(", ".join([*before, *(f"{name}_{i}" for i in range(len(value)))]) + ",", "()")
    by_place = inspect.Parameter.POSITIONAL_ONLY in kinds
    if by_place and kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        return _example(", ".join([*before, name]) + ",", "()")
    packed = inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.POSITIONAL_OR_KEYWORD not in kinds
    if by_place or packed:
        return "no example gives both positional and keyword inputs: keep the class: pkcompiler.apply_masks(model, masks)"
    keywords = list(value) if kind is inspect.Parameter.VAR_KEYWORD else [name]
    first = [repr(other) + ": ..." for other in before[:1] if other not in keywords]
    return _example(", ".join([*first, *(["..."] if len(before) > 1 else []), *(f"{word!r}: ..." for word in keywords)]), "{}")


def _example(inside: str, braces: str) -> str:
    return f"lower with an example of this call: lower(model, masks, {braces[0]}{inside}{braces[1]})"


def _bound(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _bare(values: Any) -> Any:
    return tree_map(lambda value: AnyTensor() if isinstance(value, Tensor) else value, values)
