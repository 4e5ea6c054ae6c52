"""What is wrong with a study, found before its first cell: its device, its code, its data, and targets that cannot be reached."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pkcompiler.data import LoadedData
from pkcompiler.diagnostics import Diagnostic, PkcError
from pkcompiler.driver.open import find_device
from pkcompiler.driver.study.cell import apart, data_of, load_train, opened_of
from pkcompiler.driver.study.grid import Cell
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.evidence import Evidence


def examine(cells: tuple[Cell, ...]) -> tuple[Diagnostic, ...]:
    """The device, every model, train and data set looked at, and every target of every model, all without pruning or training.

    ``cells``: those that are to be done; of those that differ in their seed alone, the first stands for all.
    """
    found: list[Diagnostic] = []
    for device in dict.fromkeys(cell.device for cell in cells):
        try:
            find_device(device)
        except PkcError as error:
            found += error.diagnostics
    for train in dict.fromkeys(cell.train for cell in cells):
        try:
            with apart():
                load_train(train)
        except PkcError as error:
            found += error.diagnostics
    data: dict[str | None, LoadedData | None] = {None: None}
    for cell in {c.data_source: c for c in reversed(cells) if c.data is not None}.values():
        try:
            with apart():
                data[cell.data_source] = data_of(cell)
        except PkcError as error:
            found += error.diagnostics
    for model in dict.fromkeys(cell.model for cell in cells):
        first = {(c.method, c.compression): c for c in reversed(cells) if c.model == model}
        with apart():
            found += _targets(list(reversed(first.values())), data)
    return tuple(dict.fromkeys(found))


def _targets(cells: Sequence[Cell], data: dict[str | None, LoadedData | None]) -> list[Diagnostic]:
    """What keeps a model from being opened and lifted, and the targets of these cells that it cannot reach."""
    try:
        opened = opened_of(cells[0])
        captured = opened.capture(torch.float64)
    except PkcError as error:
        return list(error.diagnostics)
    found: list[Diagnostic] = []
    for cell in cells:
        if cell.plan is None or cell.data_source not in data:
            continue
        read = data[cell.data_source]
        pair = (read.x, read.y) if read is not None else None
        try:
            Run(captured, cell.plan, torch.float64, Evidence(pair, initialise=opened.initialise))
        except PkcError as error:
            found += error.diagnostics
    return found
