"""How much to prune, as it is typed: ``98%``, ``0.98``, ``50x``."""

from __future__ import annotations

import re
from typing import Any

import click

NUMBER = re.compile(r"(?P<value>\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?P<unit>%|x)?")

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
AMOUNT = re.compile(r"(?P<value>\d{1,15}(?:\.\d{1,9})?)(?P<unit>KB|MB|GB)?")


class Part(click.ParamType[float]):
    """A part of all: ``98%`` or ``0.98``; ``98`` is refused. ``lowest`` and ``highest`` say which end is allowed."""

    name = "PART"

    def __init__(self, *, zero: bool, one: bool) -> None:
        self.zero, self.one = zero, one

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The part as a number from 0 to 1; a usage error for anything else."""
        option = param.opts[0] if param else ""
        usual = "90%" if self.zero else "10%"
        match = NUMBER.fullmatch(str(value))
        if match is None or match["unit"] == "x":
            self.fail(f"'{value}' is no part: type {option} {usual} or {option} {float(usual[:-1]) / 100!r}", param, ctx)
        number = float(match["value"])
        if match["unit"] is None and number > 1:
            self.fail(f"{value} is more than all: type {option} {value}%, or a number up to 1", param, ctx)
        part = number / 100 if match["unit"] else number
        if part > 1 or (part == 1 and not self.one) or (part == 0 and not self.zero):
            ends = f"from 0%{'' if self.zero else ' (not included)'} to 100%{'' if self.one else ' (not included)'}"
            self.fail(f"{value} is out of range: type a part {ends}, such as {option} {usual}", param, ctx)
        return part


class Word(click.Choice[str]):
    """One of a few words; ``-`` and ``_`` are the same in them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word as it is declared; a usage error for another."""
        return super().convert(value.replace("_", "-") if isinstance(value, str) else value, param, ctx)


class Seed(click.types.IntParamType):
    """A whole number that torch takes for a seed."""

    name = "seed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The seed, from -2**63 to 2**64 - 1; a usage error for anything else."""
        found = super().convert(value, param, ctx)
        if found not in range(-(2**63), 2**64):
            self.fail(f"{value[:25]}... is no seed: type a whole number of 64 bits, such as --seed 1", param, ctx)
        return found


class Factor(click.ParamType[float]):
    """``50x`` or ``50``: at least 1."""

    name = "FACTOR"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The factor, from 1 to 1e12; a usage error for anything else."""
        match = NUMBER.fullmatch(str(value))
        if match is None or match["unit"] == "%" or not 1 <= float(match["value"]) <= 1e12:
            self.fail(f"'{value}' is no compression: type --compression 50x (at least 1x)", param, ctx)
        return float(match["value"])


class Bytes(click.ParamType[float]):
    """``4MB``, ``500KB``, or plain bytes: whole bytes."""

    name = "BYTES"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The amount in bytes, a whole number from 1 to 1e15; a usage error for anything else."""
        match = AMOUNT.fullmatch(str(value))
        amount = float(f"{float(match['value']) * UNITS[match['unit'] or '']:.15g}") if match else 0.0
        if not 1 <= amount <= 1e15 or amount != int(amount):
            self.fail(f"'{value}' is no amount of bytes: type --size 4MB, 500KB or 123456", param, ctx)
        return amount


def short(target: tuple[str, float]) -> str:
    """A target as part of a folder's name: ``sparsity98``, ``density2.5``, ``50x``."""
    word, value = target
    if word == "size":
        return f"size{int(value)}"
    return f"{value:.12g}x" if word == "compression" else f"{word}{float(f'{value * 100:.10g}'):.12g}"
