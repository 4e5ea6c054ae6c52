"""How synflow and synflow-l2 read products of activations: layers that live on, one-shot scores, and accuracy on digits.

    python benchmarks/products.py layers --models mobilenetv3 --products either     # minutes a model on one core
    python benchmarks/products.py spread                                            # LLaMA of 24 layers, one shot at 50 %
    python benchmarks/products.py accuracy

``layers``: a model, randomly initialised at its published widths (transformers: a few layers of small width), pruned to 10 % and to
2 % in 100 rounds with ``products`` = pairs, value and either. A layer is a prunable tensor, and alive when one of its kept weights
lies on a path from the input to the output. A run that ends in layer collapse says at which round. ``accuracy``: a small network of
inverted residuals with squeeze-and-excitation, pruned at initialisation and trained on the digits of scikit-learn: the mean and the
standard deviation of the test accuracy over seeds, beside random masks and the dense network. Everything runs at one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pkcompiler.driver.prune import prune
from pkcompiler.frontend.capture import capture
from pkcompiler.lang.plan import plan_of
from pkcompiler.lowering import apply_masks
from pkcompiler.paths.topology import topology
from pkcompiler.pruning.collapse import Collapsed
from pkcompiler.pruning.rounds import Run
from pkcompiler.scoring.score import evaluate, workspace

PRODUCTS = ("pairs", "value", "either")
EDGES = {"synflow": "abs(theta)", "synflow-l2": "theta^2"}
DENSITIES = (0.1, 0.02)
IMAGE, TOKENS, ROUNDS = 32, 8, 100


def criterion(name: str, products: str, rounds: int = ROUNDS) -> str:
    """The text of synflow or synflow-l2 with a reading of products."""
    edge = EDGES[name]
    score_of = "abs(theta * grad(R, theta))" if name == "synflow" else "theta^2 * grad(R, theta^2)"
    functional = f"paths(edge = {edge}, products = {products})"
    doc = f"{name}, products = {products}"
    settings = f"rounds = {rounds} curve = exponential"
    return f'pass {name}-by-{products} {{ doc = "{doc}" let R = {functional} score = {score_of} {settings} }}'


def convolutional(name: str) -> tuple[nn.Module, Tensor]:
    from pytorchcv.model_provider import get_model

    model = get_model(name, pretrained=False)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model, torch.zeros(1, 3, IMAGE, IMAGE)


def regnety() -> tuple[nn.Module, Any]:
    """RegNetY-400MF's depths and groups, at half its widths."""
    from transformers import RegNetConfig, RegNetForImageClassification

    chosen = RegNetConfig(
        layer_type="y", embedding_size=16, hidden_sizes=[24, 56, 104, 224], depths=[1, 3, 6, 6], groups_width=8, num_labels=10
    )
    return RegNetForImageClassification(chosen), torch.zeros(1, 3, IMAGE, IMAGE)


def vit() -> tuple[nn.Module, Any]:
    from transformers import ViTConfig, ViTForImageClassification

    chosen = ViTConfig(
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=IMAGE,
        patch_size=8,
        num_labels=10,
    )
    return ViTForImageClassification(chosen), torch.zeros(1, 3, IMAGE, IMAGE)


def gpt2() -> tuple[nn.Module, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    chosen = GPT2Config(n_embd=64, n_layer=6, n_head=4, vocab_size=128, n_positions=TOKENS, use_cache=False)
    return GPT2LMHeadModel(chosen), torch.zeros(1, TOKENS, dtype=torch.long)


def llama(layers: int = 6) -> tuple[nn.Module, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    chosen = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=TOKENS,
        use_cache=False,
    )
    return LlamaForCausalLM(chosen), torch.zeros(1, TOKENS, dtype=torch.long)


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "mobilenetv3": lambda: convolutional("mobilenetv3_small_w1"),
    "efficientnet": lambda: convolutional("efficientnet_b0"),
    "regnety": regnety,
    "vit": vit,
    "gpt2": gpt2,
    "llama": llama,
    "llama24": lambda: llama(24),
}


def built(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, x = MODELS[name]()
    return model.eval(), x


def alive(captured: Any, masks: dict[str, Tensor]) -> int:
    """Prunable tensors with a kept weight on a path from the input to the output."""
    found = topology(captured.graph, captured.tensors, masks)
    return sum(bool(found.fed[name].any()) for name in masks)


def pruned(captured: Any, text: str, density: float) -> tuple[dict[str, Tensor], str]:
    """The last masks of a run, and how it ended where in layer collapse."""
    masks: dict[str, Tensor] = {}
    try:
        for state in Run(captured, plan_of(text, target=("density", density)), torch.float64).rounds():
            masks = dict(state.masks)
    except Collapsed as stop:
        return masks, stop.diagnostics[0].message
    return masks, ""


def layers(names: list[str], products: list[str], criteria: list[str], densities: list[float]) -> None:
    for name in names:
        captured = capture(*built(name), dtype=torch.float64)
        for chosen, kind, density in product(products, criteria, densities):
            started = time.perf_counter()
            masks, end = pruned(captured, criterion(kind, chosen), density)
            living = 0 if end else alive(captured, masks)
            shown = f"{name:13} {kind:10} {chosen:7} {density:5.0%}  alive {living:3} of {len(captured.graph.prunable)}"
            print(f"{shown}  {time.perf_counter() - started:5.0f} s  {end}", flush=True)


def spread(names: list[str], products: list[str], criteria: list[str]) -> None:
    """One shot at 50 %: the scores of the first against the last block, and the tensors that get none or are left empty."""
    for name in names:
        captured = capture(*built(name), dtype=torch.float64)
        for chosen, kind in product(products, criteria):
            text = criterion(kind, chosen, rounds=1)
            (pass_,) = plan_of(text, target=("density", 0.5)).passes
            found = evaluate(pass_, workspace(captured, pass_, {}, torch.float64), 0)
            sums = {n: float(found[n].double().sum()) for n in (s.name for s in captured.graph.prunable)}
            block: dict[int, float] = {}
            for n, total in sums.items():
                numbers = [int(part) for part in n.split(".") if part.isdigit()]
                if numbers:
                    block[numbers[0]] = block.get(numbers[0], 0.0) + total
            masks, end = pruned(captured, text, 0.5)
            empty = end or f"{sum(not bool(m.any()) for m in masks.values())} of {len(sums)} empty at 50 %"
            ratio = block[min(block)] / block[max(block)] if block[max(block)] else math.inf
            unscored = sum(not t for t in sums.values())
            print(f"{name} {kind} {chosen}: first over last block {ratio:.2g}, {unscored} without a score, {empty}", flush=True)


class Excited(nn.Module):
    """An inverted residual with squeeze-and-excitation, as in MobileNetV3."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.expand, self.reduce = nn.Conv2d(width, wide, 1, bias=False), nn.Conv2d(wide, width, 1, bias=False)
        self.depth = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (wide, wide, width))
        self.squeeze, self.excite = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.hardswish(self.norms[0](self.expand(x)))
        h = F.hardswish(self.norms[1](self.depth(h)))
        h = h * F.hardsigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3), keepdim=True)))))
        return x + self.norms[2](self.reduce(h))


def gated() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        *(Excited(16, 48) for _ in range(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def digits(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test samples."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(x, dtype=torch.float32)[order].reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(y)[order]
    return (images[:1300], labels[:1300]), (images[1300:], labels[1300:])


def trained(model: nn.Module, seed: int, epochs: int) -> float:
    """Test accuracy in percent after training with Adam."""
    (x, y), (test, truth) = digits(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(seed)
    steps = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * (len(y) // 50))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=generator).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            steps.step()
    with torch.no_grad():
        return 100 * float((model.eval()(test).argmax(1) == truth).double().mean())


def accuracy(seeds: int, epochs: int, densities: list[float]) -> None:
    x = torch.zeros(1, 1, 8, 8)
    passes = {f"{kind} {p}": criterion(kind, p) for kind in EDGES for p in PRODUCTS} | {"random": "random", "dense": ""}
    for density in densities:
        for label, text in passes.items():
            found, empty = [], []
            for seed in range(seeds):
                torch.manual_seed(seed)
                model = gated().eval()
                try:
                    masks = prune(model, x, text, density=density, seed=seed).masks if text else {}
                except Collapsed:
                    found.append(10.0)
                    continue
                empty.append(sum(not bool(m.any()) for m in masks.values()))
                if masks:
                    apply_masks(model, masks)
                found.append(trained(model, seed, epochs))
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            shown = f"{statistics.mean(found):.1f} +- {spread:.1f} %"
            print(f"digits {density:5.1%} {label:18} {shown}  empty layers {statistics.mean(empty) if empty else '-'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("layers", "spread", "accuracy"))
    parser.add_argument("--models", default="mobilenetv3,efficientnet,regnety,vit,gpt2,llama")
    parser.add_argument("--products", default=",".join(PRODUCTS))
    parser.add_argument("--criteria", default=",".join(EDGES))
    parser.add_argument("--densities", default=",".join(map(str, DENSITIES)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    densities = [float(d) for d in given.densities.split(",")]
    if given.what == "layers":
        layers(given.models.split(","), given.products.split(","), given.criteria.split(","), densities)
    elif given.what == "spread":
        names = ["llama24"] if given.models == parser.get_default("models") else given.models.split(",")
        spread(names, given.products.split(","), given.criteria.split(","))
    else:
        accuracy(given.seeds, given.epochs, densities)


if __name__ == "__main__":
    main()
