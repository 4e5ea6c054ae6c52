"""What an exported forward is called with: as in the example that it was recorded with, or refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
        signature = inspect.signature(model.forward)
        return cls(signature, len(args), tuple(kwargs), _bare(_bound(signature, args, kwargs)))

    def arranged(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments given as the example's were.

        :raises PkcError: PKC278 where a tensor is given that the example had not, or any other value than the example's.
        """
        given = _bound(self.signature, args, kwargs)
        for name, value in _bare(given).items():
            check_fixed(value, self.values[name], name)
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


def _bound(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _bare(values: Any) -> Any:
    return tree_map(lambda value: AnyTensor() if isinstance(value, Tensor) else value, values)
