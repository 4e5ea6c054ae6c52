"""From samples to the data of a run: whole and in order, or a class-balanced subset drawn with the seed, each sample read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from pkcompiler.data.named import Pair, Source, is_input, is_pair
from pkcompiler.diagnostics import PkcError, fail, typed_or_called
from pkcompiler.modes import in_own_modes

PER_CLASS = 10
UNNAMED = "data"
"""What data are called that a caller gives, without a source to name."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class LoadedData:
    """The samples of a run, in the order of ``indices`` (ascending positions in the source).

    ``x`` [n, ...], or a tuple or dict of such; ``y`` int64 [n] (of any dtype and shape [n, ...] for a pair given whole); ``sha256``
    of dtype, shape and bytes of all; ``classes``: the labels that occur, ascending; ``batch``: samples per forward pass, None for
    all at once.
    """

    x: Any
    y: Tensor
    indices: tuple[int, ...]
    sha256: str
    name: str
    classes: tuple[int, ...]
    batch: int | None = None

    def on(self, device: torch.device | str) -> Pair:
        """(x, y) on a device."""
        return pytree.tree_map(lambda t: t.to(device), self.x), self.y.to(device)


@dataclass(frozen=True, slots=True)
class Quota:
    """How many samples are drawn: so many of each class, or so many in all, spread evenly (the first classes get the remainder)."""

    per_class: int | None = None
    count: int | None = None
    by_default: bool = False  # whether nobody has said how many

    @property
    def most(self) -> int:
        """The most that one class can be asked for."""
        return self.per_class if self.per_class is not None else self.count or 0

    def shares(self, classes: int) -> list[int]:
        """Samples of each class, classes in ascending order."""
        if self.per_class is not None:
            return [self.per_class] * classes
        each, rest = divmod(self.count or 0, classes)
        return [each + (position < rest) for position in range(classes)]


@in_own_modes
def subset(
    data: Pair | Source, per_class: int | None = None, seed: int = 0, *, name: str = UNNAMED, batch: int | None = None
) -> LoadedData:
    """``data`` of the Python API: a pair (x, y) whole and in order, a Dataset by a class-balanced subset of ``per_class`` each.

    Raises ``PkcError``: PKC663 wrong types or shapes, PKC664 no class labels, PKC665 a class with too few samples, PKC666 a
    NaN or an infinity.
    """
    if isinstance(data, tuple | list):
        return whole(data, name, batch)
    return balanced(data, Quota(PER_CLASS if per_class is None else per_class, by_default=per_class is None), seed, name, batch)


def whole(pair: Sequence[Tensor], name: str = UNNAMED, batch: int | None = None) -> LoadedData:
    """All samples of a pair, in order; ``y`` may be anything that a loss takes."""
    x, y = _checked_pair(pair, name)
    classes = tuple(sorted(set(y.tolist()))) if _is_labels(y) else ()
    return _finish(x, y, tuple(range(len(y))), name, classes, batch)


def balanced(data: Pair | Source, quota: Quota, seed: int, name: str, batch: int | None = None) -> LoadedData:
    """A class-balanced subset, ascending in the source. One seed gives one subset, whether arrays or a Dataset hold the samples."""
    if not isinstance(data, tuple):
        return _balanced_dataset(data, quota, seed, name, batch)
    x, y = _checked_pair(data, name)
    if not _is_labels(y):
        raise _not_labels(name, f"y is {_describe(y)}")
    drawn = draw(((label, None) for label in y.tolist()), quota, seed, name)
    positions = torch.tensor([position for position, _, _ in drawn])
    x = pytree.tree_map(lambda t: t[positions], x)
    return _finish(x, y[positions].long(), tuple(positions.tolist()), name, _classes(drawn), batch)


def draw(samples: Iterable[tuple[int, T]], quota: Quota, seed: int, name: str) -> list[tuple[int, int, T]]:
    """Position, label and content of the drawn samples, ascending by position; one pass, holding ``quota`` of each class at most.

    Reservoir sampling (Vitter 1985, algorithm R) with one generator per class, so that a class's draw does not depend on the
    others. Raises PKC664 without samples and PKC665 for classes with too few.
    """
    held: dict[int, list[tuple[int, int, T]]] = {}
    seen: dict[int, int] = {}
    generators: dict[int, Random] = {}
    for position, (label, content) in enumerate(samples):
        if label not in held:
            held[label], seen[label], generators[label] = [], 0, Random(f"{seed}/{label}")
        seen[label] += 1
        if len(held[label]) < quota.most:
            held[label].append((position, label, content))
            continue
        slot = generators[label].randrange(seen[label])
        if slot < quota.most:
            held[label][slot] = (position, label, content)
    if not held:
        raise fail("PKC664", f"the data '{name}' has no samples", "give data with at least one sample of each class")
    shares = dict(zip(sorted(held), quota.shares(len(held)), strict=True))
    _enough(seen, shares, quota, name)
    return sorted(
        (sample for label, share in shares.items() for sample in generators[label].sample(held[label], share)),
        key=lambda sample: sample[0],
    )


def _enough(seen: dict[int, int], shares: dict[int, int], quota: Quota, name: str) -> None:
    few = [label for label, share in shares.items() if seen[label] < share]
    if not few:
        return
    least = min(seen.values())
    option = f"per_class = {least}" if quota.per_class is not None else f"count = {least * len(seen)}"
    worst = min(few, key=lambda label: seen[label])
    asked = "drawn where no number is given" if quota.by_default else "asked for"
    given, end = typed_or_called("try --data '", "write data = "), typed_or_called("'", " in the schedule")
    others = f", and {len(few) - 1} other classes have too few" if len(few) > 1 else ""
    raise fail(
        "PKC665",
        f"class {worst} of '{name}' has {seen[worst]} samples, {shares[worst]} are {asked}{others}",
        "give a pair (x, y), which is used whole" if name == UNNAMED else f"{given}{name}({option}){end}",
    )


class _Collated(Dataset[object]):
    """The samples of a loader one by one, as it puts them together."""

    def __init__(self, loader: DataLoader[object]) -> None:
        self.loader, self.dataset = loader, loader.dataset
        if hasattr(self.dataset, "targets"):
            self.targets = self.dataset.targets

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> object:
        if self.loader.collate_fn is default_collate:
            return self.dataset[position]
        return pytree.tree_map(lambda t: t[0], self.loader.collate_fn([self.dataset[position]]))


def _balanced_dataset(dataset: Source, quota: Quota, seed: int, name: str, batch: int | None) -> LoadedData:
    if isinstance(dataset, DataLoader):
        dataset = _Collated(dataset) if isinstance(dataset.dataset, Sized) else dataset.dataset
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        kind = type(dataset).__name__
        raise fail(
            "PKC663", f"'{name}' is a {kind}: a Dataset with a length is needed", "give a map-style Dataset, or a pair (x, y)"
        )
    targets = _targets(dataset)
    if targets is None:
        drawn = draw(_labelled(dataset, range(len(dataset)), name), quota, seed, name)
    else:
        positions = [position for position, _, _ in draw(((label, None) for label in targets), quota, seed, name)]
        samples = zip(positions, _labelled(dataset, positions, name), strict=True)
        drawn = [(position, label, x) for position, (label, x) in samples]
    x = _stacked([x for _, _, x in drawn], name)
    y = torch.tensor([label for _, label, _ in drawn])
    return _finish(x, y, tuple(position for position, _, _ in drawn), name, _classes(drawn), batch)


def _stacked(samples: Sequence[Any], name: str) -> Any:
    """Samples in one tensor, or (each a tuple or dict) in one of each kind."""
    flat = [pytree.tree_flatten(sample) for sample in samples]
    shapes = {str([tuple(t.shape) for t in leaves]).strip("[]") for leaves, _ in flat}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise fail(
            "PKC663", f"the samples of '{name}' differ in shape: {first} and {second}", "resize them in the Dataset's transform"
        )
    kinds = {str(spec) for _, spec in flat}
    if len(kinds) > 1:
        raise fail("PKC663", f"the samples of '{name}' differ in structure", "give each the same inputs, in the same order")
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return pytree.tree_unflatten([torch.stack(column) for column in columns], flat[0][1])


def _targets(dataset: Sized) -> list[int] | None:
    """The labels that many Datasets hold beside their samples; they spare reading what is not drawn."""
    targets = getattr(dataset, "targets", None)
    if not isinstance(targets, Tensor | list | tuple) or len(targets) != len(dataset):
        return None
    labels = targets.tolist() if isinstance(targets, Tensor) else list(targets)
    return labels if all(type(label) is int for label in labels) else None


def _labelled(dataset: Dataset[object], positions: Iterable[int], name: str) -> Iterator[tuple[int, Any]]:
    for position in positions:
        sample = dataset[position]
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise _not_labels(name, f"sample {position} is a {type(sample).__name__}, not a pair (x, y)")
        x, y = sample
        if not is_input(x):
            raise fail(
                "PKC663",
                f"x of sample {position} of '{name}' is a {type(x).__name__}",
                "return tensors: add ToTensor() to the transform",
            )
        label = y.item() if isinstance(y, Tensor) and y.numel() == 1 else y
        if not hasattr(label, "__index__"):
            raise _not_labels(name, f"y of sample {position} is a {type(label).__name__}")
        yield int(label), x


def _checked_pair(pair: Sequence[Any], name: str) -> Pair:
    kinds = ", ".join(type(part).__name__ for part in pair)
    if not is_pair(pair):
        raise fail(
            "PKC663",
            f"'{name}' must be a pair of tensors (x, y), it holds {kinds or 'nothing'}",
            "give data=(x, y), or data=((x, z), y) for a model of two inputs",
        )
    x, y = pair
    for part in pytree.tree_leaves(x):
        if part.ndim < 1 or y.ndim < 1 or len(part) != len(y):
            message = f"x of '{name}' is {_describe(part)} and y is {_describe(y)}"
            raise fail("PKC663", message, "give one label per sample: len(x) == len(y)")
    if len(y) == 0:
        raise fail("PKC664", f"the data '{name}' has no samples", "give data with at least one sample of each class")
    return x, y


def _finish(x: Any, y: Tensor, indices: tuple[int, ...], name: str, classes: tuple[int, ...], batch: int | None) -> LoadedData:
    parts = pytree.tree_leaves(x)
    for part in parts:
        _check_kind(part, name)
    wrong = torch.stack([~torch.isfinite(part).flatten(1).all(1) if part.ndim > 1 else ~torch.isfinite(part) for part in parts])
    bad = [index for index, is_bad in zip(indices, wrong.any(0).tolist(), strict=True) if is_bad]
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise fail("PKC666", f"{len(bad)} samples of '{name}' hold a NaN or an infinity: {shown}", "clean them: np.nan_to_num(x)")
    if y.is_floating_point() and not torch.isfinite(y).all():
        raise fail("PKC666", f"y of '{name}' holds a NaN or an infinity", "leave these samples out")
    named = "" if isinstance(x, Tensor) else str(pytree.tree_structure(x))
    return LoadedData(x, y, indices, _hash(*parts, y, structure=named), name, classes, batch)


def _check_kind(x: Tensor, name: str) -> None:
    if x.dtype == torch.uint8:
        raise fail("PKC663", f"x of '{name}' is of dtype uint8, a model takes floats", "convert it: x = x.astype('float32') / 255")
    if x.is_complex():
        raise fail("PKC663", f"x of '{name}' is complex, a model takes floats", "stack its real and imaginary part as channels")


def _hash(*tensors: Tensor, structure: str = "") -> str:
    digest = sha256(structure.encode())
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.ndim else b"")
    return digest.hexdigest()


def _classes(drawn: Sequence[tuple[int, int, object]]) -> tuple[int, ...]:
    return tuple(sorted({label for _, label, _ in drawn}))


def _is_labels(y: Tensor) -> bool:
    """Whether targets are one integer class per sample."""
    return y.ndim == 1 and not y.is_floating_point() and not y.is_complex()


def _not_labels(name: str, problem: str) -> PkcError:
    return fail("PKC664", f"'{name}' has no class labels: {problem}", "give y as one integer class per sample")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} [{', '.join(map(str, tensor.shape))}]"
