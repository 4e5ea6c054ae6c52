"""Does the Path Kernel at initialisation predict how fast a pruned network trains? The measurements.

python examples/convergence/measure.py --seeds 5

For each network, seed, criterion and sparsity: prune at initialisation, take spectral figures of the Path Kernel (no data) and the
trace of the NTK on 100 training images, then train and record the loss. One row each goes to ``networks.csv``, finished rows are
not done again; ``figures.py`` makes the table and the figure from it.
"""

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pkcompiler import PkcError, lower, ntk, path_kernel, prune

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from mnist_cnn import model as mnist_cnn  # noqa: E402
from train_mnist import accuracy, split  # noqa: E402

PASSES = ("synflow", "synflow-l2", "snip", "magnitude", "random")
SPARSITIES = (0.90, 0.98)
STEPS, BATCH, WINDOW = 248, 64, 8
NTK_IMAGES = 100
KEY = ("network", "seed", "pass", "sparsity")
COLUMNS = (
    *KEY,
    "log10_trace",
    "log10_lambda_max",
    "effective_rank",
    "stable_rank",
    "log10_path_norm",
    "log10_ntk_trace",
    "initial_loss",
    "mean_loss",
    "final_loss",
    "steps_to_half",
    "accuracy",
)


def lenet() -> nn.Module:
    """LeNet-300-100 without normalisation, He-initialised; [B, 1, 28, 28] -> [B, 10]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {"lenet-300-100": (lenet, 0.1), "mnist_cnn": (mnist_cnn, 0.1)}
"""How each is built, and the rate of its training (plain SGD, constant)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds (default: 5)")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only this one (default: all)")
    parser.add_argument("--out", type=Path, default=HERE / "networks.csv", help="where the rows go")
    options = parser.parse_args()
    done = finished(options.out)
    for name in options.network or NETWORKS:
        for row in rows(name, range(options.seeds), done):
            append(options.out, row)
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def rows(name: str, seeds: range, done: set[tuple[str, ...]]) -> Iterator[dict[str, object]]:
    """One row per network that is not done."""
    training, test = split()
    for seed in seeds:
        for criterion in PASSES:
            for sparsity in SPARSITIES:
                cell = dict(zip(KEY, (name, seed, criterion, sparsity), strict=True))
                if tuple(str(v) for v in cell.values()) not in done:
                    yield {**cell, **measured(name, seed, criterion, sparsity, training, test)}


def measured(
    name: str, seed: int, criterion: str, sparsity: float, training: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> dict[str, float]:
    """Prune, look, train. Nothing where the criterion leaves no path: the row then stays empty after its key."""
    build, rate = NETWORKS[name]
    torch.manual_seed(seed)
    network = build()
    x, y = training
    few = torch.arange(0, len(x), len(x) // NTK_IMAGES)
    try:
        masks = prune(network, x[:1], criterion, density=1 - sparsity, data=(x[few], y[few]), seed=seed).masks
    except PkcError as error:
        if error.diagnostics[0].code != "PKC410":
            raise
        return {}
    kernel = path_kernel(network, x[:1], masks)
    found = {
        "log10_trace": kernel.trace().log10,
        "log10_lambda_max": math.log10(float(kernel.eigenvalues(1)[0])),
        "effective_rank": float(kernel.effective_rank()),
        "stable_rank": float(kernel.stable_rank()),
        "log10_path_norm": kernel.value().log10,
        "log10_ntk_trace": ntk(network, (x[few], y[few]), masks).trace().log10,
    }
    sparse = lower(network, masks)
    return {**found, **trained(sparse, training, rate, seed), "accuracy": accuracy(sparse, test)}


def trained(network: nn.Module, data: tuple[Tensor, Tensor], rate: float, seed: int) -> dict[str, float]:
    """Plain SGD at a constant rate; the loss of every mini-batch before its step.

    ``initial_loss`` and ``final_loss``: means over the first and the last of ``WINDOW`` steps. ``mean_loss``: over all steps, small
    is fast. ``steps_to_half``: the first window whose mean is below half of ln 10, the loss of guessing (``STEPS`` where none is).
    """
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=rate)
    losses: list[float] = []
    network.train()
    while len(losses) < STEPS:
        for batch in torch.randperm(len(x), generator=generator).split(BATCH)[: len(x) // BATCH]:
            optimiser.zero_grad()
            loss = F.cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    windows = [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, STEPS, WINDOW)]
    below = [WINDOW * i for i, mean in enumerate(windows) if mean < math.log(10) / 2]
    return {
        "initial_loss": windows[0],
        "mean_loss": sum(losses) / len(losses),
        "final_loss": windows[-1],
        "steps_to_half": float(below[0] if below else STEPS),
    }


def finished(file: Path) -> set[tuple[str, ...]]:
    """The keys of the rows that are there."""
    if not file.is_file():
        return set()
    with file.open(newline="") as stream:
        return {tuple(row[k] for k in KEY) for row in csv.DictReader(stream)}


def append(file: Path, row: dict[str, object]) -> None:
    new = not file.is_file()
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) and k not in KEY else v for k, v in row.items()})


if __name__ == "__main__":
    main()
