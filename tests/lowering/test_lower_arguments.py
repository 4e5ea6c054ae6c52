"""What a lowered network is called with: what it was recorded with, or an error that names the argument."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pkcompiler import prune
from pkcompiler.diagnostics import PkcError
from pkcompiler.lowering import ModePair, lower


class Attend(nn.Module):
    """An optional mask and a number with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.out = nn.MultiheadAttention(4, 1, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return self.out(self.attend(x, x, x, key_padding_mask=key_padding_mask, need_weights=False)[0] * scale)


class Exported(Attend):
    """The same, which no symbolic trace follows."""

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        with torch.no_grad():
            ones = torch.ones_like(x)
        return super().forward(x * ones, key_padding_mask, scale)


class Packed(Exported):
    """Its inputs come as ``*args`` and ``**kwargs``."""

    def forward(self, *inputs: Tensor, **settings: Any) -> Tensor:
        return super().forward(*inputs, **settings)


X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[False, False, True], [False, True, True]])
CALLS: dict[str, Callable[[nn.Module], Tensor]] = {
    "x": lambda net: net(X),
    "x, defaults": lambda net: net(X, key_padding_mask=None, scale=1.0),
    "x, mask": lambda net: net(X, MASK),
    "x=, mask=": lambda net: net(key_padding_mask=MASK, x=X),
    "x, scale": lambda net: net(X, scale=2.0),
}


@pytest.mark.parametrize("given", [(X,), {"x": X, "key_padding_mask": MASK}], ids=["x", "both="])
@pytest.mark.parametrize("kind", [Attend, Exported])
def test_other_arguments_than_the_example_has_are_refused_by_name(kind: type[Attend], given: Any) -> None:
    net = kind()
    lowered = copy.deepcopy(lower(net, {}, given))
    assert isinstance(lowered, ModePair) == (kind is Exported)
    masked = len(given) == 2
    for name, call in CALLS.items():
        if name == "x, scale" or ("mask" in name) != masked:
            with pytest.raises(PkcError, match=r"PKC278.*(key_padding_mask|scale) = ") as error:
                call(lowered)
            assert "lower(model, masks, {" in error.value.diagnostics[0].notes[0]
        else:
            assert torch.equal(call(net), call(lowered))


def test_without_an_example_optional_tensors_stay_left_out() -> None:
    net = Attend()
    lowered = lower(net, {})
    assert torch.equal(net(X), lowered(X))
    for name in ("x, mask", "x=, mask=", "x, scale"):
        with pytest.raises(PkcError, match="PKC278"):
            CALLS[name](lowered)


def test_packed_arguments_are_compared_one_by_one() -> None:
    net = Packed()
    lowered = lower(net, {}, (X, MASK))
    assert torch.equal(net(X, MASK), lowered(X, MASK))
    for call, name in ((lambda: lowered(X), "inputs"), (lambda: lowered(X, MASK, scale=2.0), "settings")):
        with pytest.raises(PkcError, match=f"PKC278.*{name} = "):
            call()


class Keywords(Exported):
    """Some of its inputs have no names, or no places, of their own."""

    def forward(self, x: Tensor, **settings: Any) -> Tensor:
        return super().forward(x, **settings)


class Places(Attend):
    def forward(self, x: Tensor, scale: float = 1.0, /) -> Tensor:
        return super().forward(x, None, scale)


class More(Exported):
    def forward(self, x: Tensor, *more: Any) -> Tensor:
        return super().forward(x, *more)


ADVICE: list[tuple[type[Attend], Any, Callable[[nn.Module], Tensor], Any, str]] = [
    (Keywords, X, lambda net: net(X, scale=2.0), {"x": X, "scale": 2.0}, "lower(model, masks, {'x': ..., 'scale': ...})"),
    (Keywords, {"x": X, "scale": 2.0}, lambda net: net(X), {"x": X}, "lower(model, masks, {'x': ...})"),
    (Places, X, lambda net: net(X, 2.0), (X, 2.0), "lower(model, masks, (x, scale,))"),
    (More, X, lambda net: net(X, MASK), (X, MASK), "lower(model, masks, (x, more_0,))"),
    (More, (X, MASK), lambda net: net(X), (X,), "lower(model, masks, (x,))"),
    (Packed, (X,), lambda net: net(X, scale=2.0), None, "apply_masks"),
]


@pytest.mark.filterwarnings("ignore:Keywords could only be recorded for a batch of 2")
@pytest.mark.parametrize(("kind", "given", "call", "advised", "advice"), ADVICE)
def test_the_example_that_is_advised_works(
    kind: type[Attend], given: Any, call: Callable[[nn.Module], Tensor], advised: Any, advice: str
) -> None:
    net = kind()
    with pytest.raises(PkcError, match="PKC278") as error:
        call(lower(net, {}, given))
    assert advice in error.value.diagnostics[0].notes[0]
    if advised is not None:
        assert torch.equal(call(lower(net, {}, advised)), call(net))


def test_a_refusal_of_export_prints_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    class Branches(Attend):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, None, float(x.sum()))

    with pytest.raises(PkcError, match="PKC273"):
        lower(Branches(), {}, X)
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_a_result_of_pruning_brings_the_inputs_that_it_was_made_with() -> None:
    """The model is recorded with them where no symbolic trace follows it."""
    net, inputs = Exported(), {"x": X, "key_padding_mask": MASK}
    pruned = prune(net, inputs, "magnitude", density=0.5)
    assert pruned.inputs is inputs
    lowered = lower(net, pruned)
    other = ~MASK
    net.load_state_dict(lowered.state_dict())
    assert torch.equal(net(X, other), lowered(X, other))
