"""What scores stand on beside the weights: samples with their targets, the loss, fresh models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from pkcompiler.data import LoadedData, load_data, subset
from pkcompiler.lang.plan import Plan
from pkcompiler.predict.initial import Factory
from pkcompiler.scoring.losses import Loss


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """``data``: a pair (x, y), or None; ``loss``: of output and target, by default cross-entropy; ``batch``: samples to a forward
    pass, by default all; ``initialise``: seed to a fresh model, for passes with ``init = fresh``."""

    data: Any = None
    loss: Loss | None = None
    batch: int | None = None
    initialise: Factory | None = None

    @staticmethod
    def of(data: Any, seed: int, loss: Loss | None = None, initialise: Factory | None = None) -> Evidence:
        """Of data as a caller gives them: a pair, loaded samples, or a Dataset or DataLoader, of which a subset is drawn."""
        return Evidence(as_pair(data, seed), loss, data.batch if isinstance(data, LoadedData) else None, initialise)


NONE = Evidence()
"""The weights alone."""


def as_pair(data: Any, seed: int) -> Any:
    """(x, y) as it is; of a Dataset or a DataLoader (or loaded data) the samples and targets."""
    if isinstance(data, Dataset | DataLoader):
        data = subset(data, seed=seed)
    return (data.x, data.y) if isinstance(data, LoadedData) else data


def planned_data(given: Any, plan: Plan) -> Any:
    """The data of a plan's rounds: what the caller gives (of a Dataset a subset), else what the schedule names, if anything reads
    it."""
    if isinstance(given, Dataset | DataLoader):
        return subset(given, seed=plan.seed)
    spec = plan.schedule.data
    return load_data(spec, plan.seed) if given is None and spec is not None and plan.needs_data else given
