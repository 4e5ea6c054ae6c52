"""How the networks of the studies are trained: SGD with momentum under a one-cycle rate, shuffled by the seed, on four fifths of
the data; the numbers are those of the other fifth. What criteria and analyses read is of the four fifths, too.

pkc study examples/accuracy/digits.pkc
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler.data import read

Pair = tuple[Tensor, Tensor]
BATCH = 64


def digits(model: nn.Module, seed: int, device: str) -> dict[str, float]:
    """20 epochs on 1,437 images of 8x8; tested on 360."""
    return fit(model, read("digits"), seed, device, epochs=20, rate=0.1)


def mnist5k(model: nn.Module, seed: int, device: str) -> dict[str, float]:
    """4 epochs on 4,000 images of 28x28; tested on 1,000."""
    return fit(model, read("mnist5k"), seed, device, epochs=4, rate=0.1)


def digits_seen() -> Pair:
    """The 1,437 images that training sees: `data` of the study, which draws from them."""
    return split(read("digits"))[0]


def mnist5k_seen() -> Pair:
    """The 4,000 images that training sees."""
    return split(read("mnist5k"))[0]


def split(data: Pair) -> tuple[Pair, Pair]:
    """What training sees, and every fifth sample, which it does not."""
    x, y = data
    held_out = torch.arange(len(x), device=x.device) % 5 == 0
    return (x[~held_out], y[~held_out]), (x[held_out], y[held_out])


def fit(model: nn.Module, data: Pair, seed: int, device: str, epochs: int, rate: float) -> dict[str, float]:
    """Train ``model`` in place; accuracy and loss of every fifth sample, which training does not see."""
    (x, y), held_out = split((data[0].to(device), data[1].to(device)))
    shuffle = torch.Generator().manual_seed(seed)
    count = len(x)
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * (count // BATCH))
    model.to(device).train()
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=shuffle).split(BATCH)[: count // BATCH]:
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    return test(model, *held_out)


@torch.no_grad()
def test(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy and mean loss in evaluation mode."""
    logits = model.eval()(x)
    return {"accuracy": (logits.argmax(dim=1) == y).float().mean().item(), "loss": F.cross_entropy(logits, y).item()}
