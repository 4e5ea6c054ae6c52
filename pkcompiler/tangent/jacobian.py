"""Rows, products and the Gram matrix of a Jacobian that need not fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vjp, vmap

from pkcompiler.diagnostics import fail
from pkcompiler.modes import methods_in_own_modes
from pkcompiler.tangent.function import TangentMap, computing

MEMORY = 2_000_000_000
"""Bytes that a kernel and the pieces of its Jacobian may take by default."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of the Jacobian: of the units ``start`` to ``stop`` the outputs ``first`` to ``last`` (both ends excluded)."""

    start: int
    stop: int
    first: int
    last: int

    def place(self, rows: int) -> slice:
        """Where its rows stand in the whole, which has ``rows`` per unit."""
        if self.stop - self.start == 1:
            return slice(self.start * rows + self.first, self.start * rows + self.last)
        return slice(self.start * rows, self.stop * rows)


@methods_in_own_modes
class Jacobian:
    """J [height, width] of a :class:`TangentMap`: rows by unit, then output; columns by parameter entry (those dropped are zero).

    Derivatives by ``torch.func`` over many units at once (vmap); where the model does not let itself be vectorised, unit by unit
    with plain autograd. ``memory``: bytes for a matrix and the pieces of J at once; one unit's activations come on top when they
    alone are larger.
    """

    def __init__(self, map: TangentMap, memory: int = MEMORY) -> None:
        self.map, self.memory = map, int(memory)
        self.vectorised = True
        self._modes: list[Callable[[int, int, Tensor], Tensor]] = [self._jvp_forward, self._jvp_transposed]
        self._activations = _activation_bytes(map)

    @property
    def height(self) -> int:
        """The number of rows: units times outputs of one."""
        return self.map.count * self.map.rows

    @property
    def width(self) -> int:
        """The number of columns: parameter entries, dropped ones included."""
        return self.map.size

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return self.map.like.element_size()

    # how it is cut ----------------------------------------------------------------------------------------------------

    def blocks(self, memory: int) -> list[Block]:
        """All rows in blocks whose computation takes about ``memory`` bytes (at least one row each)."""
        rows, count = self.map.rows, self.map.count
        each = 3 * self.width * self.item + self._activations
        at_once = max(1, int(memory // max(1, each)))
        if at_once < rows:
            return [Block(i, i + 1, a, min(a + at_once, rows)) for i in range(count) for a in range(0, rows, at_once)]
        step = at_once // rows
        return [Block(i, min(i + step, count), 0, rows) for i in range(0, count, step)]

    def _chunks(self) -> list[tuple[int, int]]:
        """Units that are run forward and back together."""
        step = max(1, int(self.memory // 4 // max(1, 3 * self._activations)))
        return [(i, min(i + step, self.map.count)) for i in range(0, self.map.count, step)]

    # values, rows, products -------------------------------------------------------------------------------------------

    def values(self) -> Tensor:
        """The map's own values [height]."""
        with torch.no_grad():
            return torch.cat([self._run(a, b) for a, b in self._chunks()])

    def _run(self, start: int, stop: int) -> Tensor:
        def vectorised() -> Tensor:
            return self._many(start, stop)(self.map.theta).reshape(-1)

        def one_by_one() -> Tensor:
            return torch.cat([self.map.function(self.map.theta, self.map.unit(i)) for i in range(start, stop)])

        return self._either(vectorised, one_by_one)

    def rows(self, block: Block) -> Tensor:
        """The rows of a block [rows, width]."""
        return self._either(lambda: self._rows_vectorised(block), lambda: self._rows_one_by_one(block))

    def _rows_vectorised(self, block: Block) -> Tensor:
        def derivatives(theta: dict[str, Tensor], unit: tuple[Tensor, ...]) -> dict[str, Tensor]:
            return jacrev(lambda t: self.map.function(t, unit)[block.first : block.last])(theta)

        units = tuple(t[block.start : block.stop] for t in self.map.units)
        found = vmap(derivatives, in_dims=(None, 0))(self.map.theta, units)
        return torch.cat([found[n].detach().flatten(0, 1).flatten(1) for n in self.map.theta], 1)

    def _rows_one_by_one(self, block: Block) -> Tensor:
        out = []
        for i in range(block.start, block.stop):
            leaves = _leaves(self.map)
            with torch.enable_grad():
                values = self.map.function(leaves, self.map.unit(i))[block.first : block.last]
            out += [self._pulled(values, leaves, unit) for unit in torch.eye(len(values), dtype=values.dtype, device=values.device)]
        return torch.stack(out)

    def _pulled(self, values: Tensor, leaves: dict[str, Tensor], cotangent: Tensor) -> Tensor:
        grads = torch.autograd.grad(values, list(leaves.values()), cotangent, retain_graph=True, allow_unused=True)
        pairs = zip(grads, leaves.values(), strict=True)
        return torch.cat([(torch.zeros_like(leaf) if g is None else g).reshape(-1) for g, leaf in pairs])

    def vjp(self, u: Tensor) -> Tensor:
        """J^T u [width], u [height]: one forward and one backward pass over the data."""
        u = u.reshape(self.map.count, self.map.rows)
        total = torch.zeros(self.width, dtype=self.map.like.dtype, device=self.map.like.device)
        for a, b in self._chunks():
            total += self._vjp_chunk(a, b, u[a:b])
        return total

    def _vjp_chunk(self, start: int, stop: int, u: Tensor) -> Tensor:
        return self._either(lambda: self._vjp_vectorised(start, stop, u), lambda: self._vjp_each(start, stop, u))

    def _vjp_vectorised(self, start: int, stop: int, u: Tensor) -> Tensor:
        pull = vjp(self._many(start, stop), self.map.theta)[1]
        return _flat(pull(u)[0])

    def _vjp_each(self, start: int, stop: int, u: Tensor) -> Tensor:
        total = torch.zeros(self.width, dtype=u.dtype, device=u.device)
        for i, weight in zip(range(start, stop), u, strict=True):
            leaves = _leaves(self.map)
            with torch.enable_grad():
                values = self.map.function(leaves, self.map.unit(i))
            total += self._pulled(values, leaves, weight)
        return total

    def jvp(self, v: Tensor) -> Tensor:
        """J v [height], v [width]: in forward mode; as the derivative of J^T u by u where an operator has no forward derivative
        (two backward passes); from the rows where it has no second one either."""
        while self.vectorised and self._modes:
            try:
                with _quiet():
                    return torch.cat([self._modes[0](a, b, v) for a, b in self._chunks()])
            except Exception:  # whatever an operator lacks
                self._modes.pop(0)
        return torch.cat([self.rows(b) @ v for b in self.blocks(self.memory // 4)])

    def _jvp_forward(self, start: int, stop: int, v: Tensor) -> Tensor:
        return jvp(self._many(start, stop), (self.map.theta,), (self.map.named(v),))[1].reshape(-1)

    def _jvp_transposed(self, start: int, stop: int, v: Tensor) -> Tensor:
        found = vjp(self._many(start, stop), self.map.theta)
        values, pull = found[0], found[1]

        def transposed(u: Tensor) -> dict[str, Tensor]:
            pulled: dict[str, Tensor] = pull(u)[0]
            return pulled

        (result,) = vjp(transposed, torch.zeros_like(values))[1](self.map.named(v))
        return result.reshape(-1)

    def _many(self, start: int, stop: int) -> Callable[[dict[str, Tensor]], Tensor]:
        units = tuple(t[start:stop] for t in self.map.units)
        return lambda theta: vmap(self.map.function, in_dims=(None, 0))(theta, units)

    def _either(self, fast: Callable[[], Tensor], slow: Callable[[], Tensor]) -> Tensor:
        """Vectorised, or once that has failed always unit by unit."""
        with _quiet():
            if self.vectorised:
                try:
                    return fast().detach()
                except Exception:  # whatever a model does that vmap does not know
                    self.vectorised = False
            try:
                return slow().detach()
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise fail(
                    "PKC526",
                    f"the model's derivatives cannot be computed: {str(error).strip().splitlines()[0]}",
                    "loss.backward() has to work in evaluation mode: compute without in-place operations in forward",
                ) from error

    # the Gram matrix --------------------------------------------------------------------------------------------------

    @property
    def gram_bytes(self) -> int:
        """The bytes of J J^T [height, height]."""
        return self.height**2 * self.item

    @property
    def fits(self) -> bool:
        """Whether J J^T fits into ``memory``."""
        return self.gram_bytes <= self.memory

    def square_norms(self) -> Tensor:
        """The squared norm of every row [height]: the diagonal of J J^T, exactly."""
        return torch.cat([self.rows(b).square().sum(1) for b in self.blocks(self.memory // 2)])

    def gram(self) -> Tensor:
        """J J^T [height, height].

        J is held where it fits beside the matrix. Else two blocks of its rows are held at a time and computed again for every
        pair: with B blocks, (B + 1) / 2 times the work. Raises ``PKC525`` where the matrix itself does not fit.
        """
        self.require_gram()
        left = self.memory - self.gram_bytes
        if self.height * self.width * self.item <= left:
            whole = self.map.like.new_empty(self.height, self.width)
            for block in self.blocks(max(left - self.height * self.width * self.item, 1)):
                whole[block.place(self.map.rows)] = self.rows(block)
            return whole @ whole.T
        return self._blockwise(self.blocks(max(left // 3, 1)))

    def _blockwise(self, blocks: list[Block]) -> Tensor:
        out = self.map.like.new_empty(self.height, self.height)
        for i, block in enumerate(blocks):
            here, at = self.rows(block), block.place(self.map.rows)
            out[at, at] = here @ here.T
            for other in blocks[i + 1 :]:
                there = other.place(self.map.rows)
                out[at, there] = here @ self.rows(other).T
                out[there, at] = out[at, there].T
        return out

    def require_gram(self) -> None:
        """Raise ``PKC525`` where J J^T does not fit into ``memory``."""
        if self.fits:
            return
        raise fail(
            "PKC525",
            f"the kernel has {self.height} rows and takes {shown_bytes(self.gram_bytes)}; the limit is {shown_bytes(self.memory)}",
            f"rows are samples times outputs: {self.map.count} x {self.map.rows}; take fewer samples",
            "trace(), traces(), eigenvalues(k) and eigenpairs(k) need no matrix",
            f"or give memory={self.gram_bytes * 2}",
        )


def shown_bytes(count: int) -> str:
    """``1.3 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in named.values()])


def _leaves(map: TangentMap) -> dict[str, Tensor]:
    return {n: t.detach().clone().requires_grad_() for n, t in map.theta.items()}


def _activation_bytes(map: TangentMap) -> int:
    """What one unit's forward pass keeps for its backward pass, the parameters not counted."""
    leaves = _leaves(map)
    own = {t.data_ptr() for t in leaves.values()}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += 0 if tensor.data_ptr() in own else tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), computing(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        map.function(leaves, map.unit(0))
    return total


@contextmanager
def _quiet() -> Iterator[None]:
    """The derivatives' context, without torch's remarks that vmap loops over some operator."""
    with computing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
