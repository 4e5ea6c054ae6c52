"""Targets that cannot be reached are refused before any work, with the number by which they miss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pkcompiler.diagnostics import Diagnostic, fail, raise_all
from pkcompiler.lang.check.schedule import show_target
from pkcompiler.pruning.target import Aim
from pkcompiler.selection.candidates import Candidates, check_reachable, quotas
from pkcompiler.selection.channels import removal
from pkcompiler.selection.floors import block_sizes
from pkcompiler.selection.structures import Block, Ratio, Structure, structure_of
from pkcompiler.structure import Coupling


def check_aim(aim: Aim) -> None:
    """Refuse a target that cannot be reached, before any work, with the number by which it misses: ``PKC403`` where ``except`` and
    floors protect too much, ``PKC423`` where a structure, or what no mask changes, makes it so.
    """
    named = show_target(aim.stage.target)
    if aim.quantity.word == "density":
        _check_one(aim.found, aim.part, named)
        check_reachable(aim.found, aim.part, named)
    else:
        _check_least(aim, named)
    if isinstance(aim.structure, Ratio) and aim.quantity.word == "density":
        _check_ratio(aim, aim.structure, named)
    if isinstance(aim.structure, Block):
        _check_block(aim, aim.structure, named)
    if aim.coupling is not None:
        _check_channels(aim, aim.coupling, named)


def _check_one(found: Candidates, part: float, named: str) -> None:
    """A density at which no weight is left: whatever the scores, the network is empty."""
    if found.total and not found.kept_at(part):
        raise fail(
            "PKC423",
            f"{named} keeps {part * found.total:.2g} of {found.total:,} weights: less than one",
            f"a compression of {found.total}x keeps one",
        )


def _check_least(aim: Aim, named: str) -> None:
    """What is kept whatever the scores say must fit into the budget, and a weight beside it where that holds none."""
    found = aim.found
    kept = {n: found.sizes[n] if n in found.protected else found.floors.get(n, 0) for n in found.sizes}
    least, most = aim.quantity.at(kept), aim.budget(aim.part)
    if least <= most and not any(kept.values()):
        _check_room(aim, most - least, named)
    if least <= most:
        return
    where = (
        "'except', floors and what has no prunable weight"
        if aim.quantity.word == "flops"
        else "'except', floors, masks and the rest"
    )
    raise fail(
        "PKC423",
        f"{named} is {most:,} of {aim.quantity.whole:,} {aim.quantity.unit}, but {where} take {least:,}: {least - most:,} too many",
        f"write {aim.quantity.remedy(least)} or more, or protect less",
    )


def _check_room(aim: Aim, room: int, named: str) -> None:
    smallest = min((aim.quantity.costs[n] for n in aim.found.competing), default=0)
    if room < smallest:
        raise fail(
            "PKC423",
            f"{named} leaves {room:,} for weights, and the cheapest takes {smallest:,}: {smallest - room:,} too few",
            "ask for more",
        )


def _check_ratio(aim: Aim, structure: Ratio, named: str) -> None:
    """N:M keeps at most N of M: of every parameter where each has its own share, else of all that compete."""
    found = aim.found
    most = {n: found.sizes[n] * structure.kept // structure.of for n in found.competing}
    shares = quotas(found, aim.part, aim.stage.scope or "global")
    kept = sum(found.sizes[n] for n in found.protected)
    wanted = found.kept_at(aim.part) if shares is None else kept + sum(max(shares[n], found.floors.get(n, 0)) for n in most)
    reached = kept + sum(most.values())
    if wanted > reached:
        ask = math.floor(1e6 * reached / found.total) / 1e6
        raise fail(
            "PKC423",
            f"{named} keeps {wanted:,} of {found.total:,} weights, but {structure} keeps at most {reached:,}: "
            f"{wanted - reached:,} too few",
            f"write density = {ask:g} or less",
        )
    over = {n: max(shares[n] if shares else 0, found.floors.get(n, 0)) - most[n] for n in most}
    for name, excess in over.items():
        if excess > 0:
            raise fail(
                "PKC423",
                f"{named} asks for {excess:,} weights of '{name}' more than the {most[name]:,} that {structure} keeps",
                "write scope = global, a lower floor, or a lower density",
            )


def _check_block(aim: Aim, structure: Block, named: str) -> None:
    """At least one block has to fit, in every share that is handed out."""
    found, smallest = aim.found, math.inf
    _check_shares(aim, structure, named)
    base = aim.quantity.at({n: found.sizes[n] if n in found.protected else 0 for n in found.sizes})
    for name in found.competing:
        sizes = block_sizes(structure, found.shapes[name], found.sides[name])
        smallest = min(smallest, int(sizes.min()) * max(1, aim.quantity.costs[name]))
    left = aim.budget(aim.part) - base
    if left < smallest:
        raise fail(
            "PKC423",
            f"{named} leaves {left:,} for what competes, the smallest {structure} takes {smallest:,}: {smallest - left:,} more",
            "ask for more, or write smaller blocks",
        )


def _check_shares(aim: Aim, structure: Block, named: str) -> None:
    shares = quotas(aim.found, aim.part, aim.stage.scope or "global") or {}
    errors = []
    for name, share in shares.items():
        smallest = int(block_sizes(structure, aim.found.shapes[name], aim.found.sides[name]).min())
        if share < smallest:
            message = f"{named} hands {share:,} weights to '{name}', whose smallest {structure} takes {smallest:,}: "
            notes = (f'write scope = global, smaller blocks, or keep it whole: except = "{name}"',)
            errors.append(Diagnostic("PKC423", f"{message}{smallest - share:,} too few", notes=notes))
    raise_all(errors)


def check_producible(
    demands: Sequence[tuple[str, str]], matching: Mapping[str, Sequence[str]], aims: Sequence[Aim], given: Mapping[str, Tensor]
) -> None:
    """Refuse demands of ``lower`` that no stage can meet, whatever the scores: ``PKC424``. Masks that are given may meet them."""
    errors = []
    for glob, text in demands:
        structure = structure_of(text)
        names = [n for n in matching[glob] if n not in given and not any(_may_make(aim, n, structure) for aim in aims)]
        if isinstance(structure, Ratio) and names and (why := _too_many(structure, names, aims)):
            notes = (f"prune it so: structure = {text} in a stage",)
            errors.append(Diagnostic("PKC424", f'lower demands {text} of "{glob}", which no stage can produce: {why}', notes=notes))
    raise_all(errors)


def _may_make(aim: Aim, name: str, structure: Structure | None) -> bool:
    """Whether a stage may give a parameter so regular a mask: by its own structure, or channel by channel."""
    if name not in aim.found.competing:
        return False
    own = aim.structure
    if isinstance(own, Ratio) and isinstance(structure, Ratio):
        return structure.of % own.of == 0 and own.kept * (structure.of // own.of) <= structure.kept
    return aim.coupling is not None


def _too_many(structure: Ratio, names: Sequence[str], aims: Sequence[Aim]) -> str:
    """Why more is kept than N:M allows: of a parameter that no stage prunes, of one with a share of its own, of all together."""
    last = aims[-1]
    for name in names:
        pruned = [aim for aim in aims if name in aim.found.competing]
        size = next(aim.found.sizes[name] for aim in aims if name in aim.found.sizes)
        most = size * structure.kept // structure.of
        if not pruned and most < size:
            return f"no stage prunes '{name}'"
        exact = pruned and pruned[-1].plain and pruned[-1].stage.select != "kth_le" and not pruned[-1].stage.requires
        share = (quotas(pruned[-1].found, pruned[-1].part, pruned[-1].stage.scope or "global") or {}).get(name, 0) if exact else 0
        if share > most and len(aims) == 1:
            return f"{share:,} weights of '{name}' are kept, {most:,} are allowed: {share - most:,} too many"
    if len(aims) > 1 or not last.plain or last.stage.select == "kth_le":
        return ""
    spare = {n: size * structure.kept // structure.of if n in names else size for n, size in last.found.sizes.items()}
    wanted, allowed = last.found.kept_at(last.part), sum(spare.values())
    return f"{wanted:,} weights are kept, {allowed:,} are allowed: {wanted - allowed:,} too many" if wanted > allowed else ""


def _check_channels(aim: Aim, units: Coupling, named: str) -> None:
    """What is left where every layer has one unit must fit into the budget."""
    ones = {n: torch.ones(shape) for n, shape in aim.found.shapes.items()}
    order = removal(units, ones, {}, aim.found)
    least, most = aim.amount(order.masks(len(order.order))), aim.budget(aim.part)
    if least > most:
        raise fail(
            "PKC423",
            f"{named} is {most:,} of {aim.quantity.whole:,} {aim.quantity.unit}, but where every layer keeps a unit, and what "
            f"'except' protects stays, {least:,} are left: {least - most:,} too many",
            f"ask for at least {math.ceil(10_000 * least / aim.quantity.whole) / 100:g}%, or structure = unstructured",
        )
