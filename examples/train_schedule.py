"""Train under a schedule: gradual magnitude pruning, iterative pruning with rewinding, or RigL, with a checkpoint to resume from.

python examples/train_schedule.py --schedule examples/schedules/imp-rewind.pkc --checkpoint imp.safetensors
"""

import argparse
import sys
import time
from pathlib import Path

import digits_mlp
import mnist_cnn
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pkcompiler import PkcError
from pkcompiler.data import read
from pkcompiler.training import load_schedule

NETWORKS = {"digits": digits_mlp.model, "mnist5k": mnist_cnn.model}
SHIPPED = Path(__file__).parent / "schedules" / "gradual-magnitude.pkc"


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    return (network(x).argmax(dim=1) == y).float().mean().item()


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    x, y = read(options.data)
    held_out = torch.arange(len(x)) % 5 == 0
    network = NETWORKS[options.data]()
    generator = torch.Generator().manual_seed(options.seed)
    loader = DataLoader(TensorDataset(x[~held_out], y[~held_out]), batch_size=64, shuffle=True, drop_last=True, generator=generator)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    cycles = load_schedule(options.schedule).cycles(
        network,
        optimizer,
        x[:1],
        epochs=options.epochs,
        loader=loader,
        lr_scheduler=rates,
        data=(x[~held_out][:200], y[~held_out][:200]),
        checkpoint=options.checkpoint,
        resume=options.resume,
    )
    if cycles.resumed:
        print(f"resumed in cycle {cycles.number} after epoch {cycles.position.epoch}, step {cycles.position.step}")
    with Progress(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal) as progress:
        for cycle in cycles:
            bar = progress.add_task(f"cycle {cycle.number}", total=options.epochs, completed=cycles.position.epoch)
            for _ in cycle:
                network.train()
                for images, labels in loader:
                    optimizer.zero_grad()
                    F.cross_entropy(network(images), labels).backward()
                    optimizer.step()
                    if visit := cycle.step():
                        print(visit)
                rates.step()
                if visit := cycle.epoch_end():
                    print(visit)
                progress.advance(bar)
            print(f"cycle {cycle.number}: accuracy {accuracy(network, x[held_out], y[held_out]):.1%}", flush=True)
    if options.save:
        save_file(network.state_dict(), options.save)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedule", default=str(SHIPPED), help="a .pkc file (default: gradual magnitude pruning)")
    parser.add_argument("--data", choices=list(NETWORKS), default="digits", help="digits trains an MLP, mnist5k a small CNN")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="a file that is written after every epoch")
    parser.add_argument("--resume", action="store_true", help="go on with the checkpoint, if there is one")
    parser.add_argument("--save", help="where the weights go, a .safetensors file")
    options = parser.parse_args()
    start = time.perf_counter()
    try:
        train(options)
    except PkcError as error:
        sys.exit(str(error))
    print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
