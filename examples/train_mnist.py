"""Prune at initialisation, lower, train: the accuracy of the dense network, of the pruned one, and of random masks of its density.

python examples/train_mnist.py --density 0.05
"""

import argparse
import time

import torch
from mnist_cnn import example_inputs, model
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler import lower, prune
from pkcompiler.data import read

Pair = tuple[Tensor, Tensor]


def split() -> tuple[Pair, Pair]:
    """4,000 images to train and 1,000 to test: every fifth of the file, which is sorted by digit, so 100 of each."""
    x, y = read("mnist5k")
    held_out = torch.arange(len(x)) % 5 == 0
    return (x[~held_out], y[~held_out]), (x[held_out], y[held_out])


def fit(network: nn.Module, data: Pair, epochs: int, rate: float, seed: int) -> None:
    """SGD with momentum under a one-cycle rate; the same seed shuffles alike."""
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * (len(x) // 64))
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64)[: len(x) // 64]:
            optimiser.zero_grad()
            F.cross_entropy(network(x[rows.to(x.device)]), y[rows.to(x.device)]).backward()
            optimiser.step()
            schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, data: Pair) -> float:
    x, y = data
    network.eval()
    return (network(x).argmax(dim=1) == y).float().mean().item()


def train(network: nn.Module, seed: int = 0, device: str = "cpu", epochs: int = 4, rate: float = 0.1) -> dict[str, float]:
    """Train on the 4,000 images; the numbers of the 1,000 others."""
    training, test = (tuple(part.to(device) for part in pair) for pair in split())
    network.to(device)
    fit(network, training, epochs, rate, seed)
    return {"accuracy": accuracy(network, test)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pass", dest="pass_", default="synflow-l2", help="the criterion (default: synflow-l2)")
    parser.add_argument("--density", type=float, default=0.05, help="the fraction of weights to keep (default: 0.05)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    (x, y), _ = split()
    few = torch.arange(0, len(x), 40)  # ten of each digit, for criteria that read data
    for name in ("dense", options.pass_, "random"):
        torch.manual_seed(options.seed)
        network = model()
        kept = 1.0
        start = time.perf_counter()
        if name != "dense":
            pruned = prune(network, example_inputs(), name, density=options.density, data=(x[few], y[few]), seed=options.seed)
            kept = sum(int(mask.sum()) for mask in pruned.masks.values()) / sum(mask.numel() for mask in pruned.masks.values())
            network = lower(network, pruned.masks)
        result = train(network, options.seed, options.device, options.epochs)
        print(f"{name:12} density {kept:6.2%}  accuracy {result['accuracy']:.1%}  {time.perf_counter() - start:4.1f} s", flush=True)


if __name__ == "__main__":
    main()
