"""``collapse(PASS)`` against pruning to each compression by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pkcompiler.analyses.run import run_analysis
from pkcompiler.driver.prune import prune
from pkcompiler.lang.library import find_pass
from pkcompiler.pruning.collapse import Collapsed

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
DATA = (X, torch.arange(6) % 4)


class Skips(nn.Module):
    """A residual block whose branch can die alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.branch, self.head = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(x + torch.relu(self.branch(x)))


def bound(collapse: str, model: nn.Module | None = None, **given):
    report = run_analysis(model or Skips().double(), X[:1], f'analysis a {{ source = "x" report "c" = {collapse} }}', **given)
    return report["c"], report.rows[0]


def by_hand(name: str, last: int, data, start=None) -> tuple[dict[str, int], int, bool]:
    """The first k at which each tensor is empty, the last k reached, and whether paths were left then."""
    model, masks, died = Skips().double(), start, {}
    again = find_pass(name).rounds > 1
    for k in range(1, last + 1):
        begin = masks if again else start
        try:
            done = prune(model, X[:1], name, density=10 ** (-k / 4), rounds=1, masks=begin, data=data)
            masks, left = done.masks, True
        except Collapsed as error:
            masks, left = error.reached.masks, False
        died |= {n: k for n, m in masks.items() if not m.any() and n not in died}
        if not left:
            return died, k, False
    return died, last, True


@pytest.mark.filterwarnings("ignore:.*position alone chose it:UserWarning")
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", ["synflow", "synflow-l2", "magnitude", "random", "snip"])
def test_each_tensor_dies_where_pruning_leaves_nothing_of_it(name: str, masked: bool) -> None:
    data = DATA if find_pass(name).needs_data else None
    start = {"stem.weight": torch.rand(12, 5, generator=torch.Generator().manual_seed(1)) < 0.5} if masked else None
    values, row = bound(f"collapse({name})", data=data, masks=start)
    total = 5 * 12 + 12 * 12 + 12 * 4
    last = max(k for k in range(1, 17) if 10 ** (k / 4) <= total)
    died, reached, left = by_hand(name, last, data, start)
    assert list(values) == ["stem.weight", "branch.weight", "head.weight"]
    for parameter, measured in values.items():
        k = died.get(parameter)
        assert float(measured) == pytest.approx(10 ** ((k or reached) / 4), rel=1e-12)
        assert measured.status == "bound"
        above, below = 10 ** (((k or reached + 1) - 1) / 4), 10 ** ((k or 0) / 4)
        assert measured.note == (f"{above:.4g} < c <= {below:.4g}" if k else f"> {above:.4g}")
    assert row.note == ("" if left else f"no path is left at {10 ** (reached / 4):.4g}")
    assert row.status == "bound"


def test_a_run_ends_where_it_is_told_to() -> None:
    values, row = bound("collapse(synflow, until = 2x)")
    assert {(float(m), m.note) for m in values.values()} == {(10**0.25, "> 1.778")} and row.note == ""
    assert bound("collapse(synflow, until = 10)")[0]["head.weight"].note == "> 10"
    far = bound("collapse(magnitude, until = 1e9)")[0]
    assert max(map(float, far.values())) <= 252


def test_what_is_empty_already_is_said() -> None:
    masks = {"branch.weight": torch.zeros(12, 12, dtype=torch.bool)}
    values, _ = bound("collapse(synflow)", masks=masks)
    assert (float(values["branch.weight"]), values["branch.weight"].note) == (1.0, "empty to begin with")
    assert values["stem.weight"].status == "bound"


def test_a_pass_of_the_file_itself() -> None:
    own = 'pass mine { source = "x" score = abs(theta) } '
    text = own + 'analysis a { source = "x" report "m" = collapse(mine) report "l" = collapse("magnitude") }'
    report = run_analysis(Skips().double(), X[:1], text)
    assert report["m"] == report["l"] and report["m"]
