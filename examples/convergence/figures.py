"""The table and the figure of ``networks.csv``: rank correlations between figures at initialisation and the speed of training.

python examples/convergence/figures.py
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from scipy.stats import spearmanr

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
FIGURES = {
    "log10_trace": "Path Kernel: trace",
    "log10_lambda_max": "Path Kernel: largest eigenvalue",
    "effective_rank": "Path Kernel: effective rank",
    "stable_rank": "Path Kernel: stable rank",
    "log10_path_norm": "squared path norm R_2",
    "log10_ntk_trace": "NTK on 100 images: trace",
}
PASSES = {"synflow": "o", "synflow-l2": "s", "snip": "^", "magnitude": "D", "random": "X"}
COLOURS = dict(zip(PASSES, ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#555555"), strict=True))
RESAMPLES = 2000

Row = dict[str, str]


def main() -> None:
    with (HERE / "networks.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    trained = [row for row in rows if row["mean_loss"]]
    parts = {"All five criteria": trained, "Without random pruning": [row for row in trained if row["pass"] != "random"]}
    text = "\n".join(f"{title}:\n\n{table(part)}" for title, part in parts.items())
    text += f"\nNetworks that pruning left without a path, and that are left out: {len(rows) - len(trained)}.\n"
    (HERE / "correlations.md").write_text(text, encoding="utf-8")
    draw(trained)
    print((HERE / "correlations.md").read_text(encoding="utf-8"))


def groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of every network and sparsity."""
    out: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        out.setdefault((row["network"], row["sparsity"]), []).append(row)
    return out


def table(rows: Sequence[Row]) -> str:
    """Spearman's rho between a figure and the speed (minus the mean loss), with a 95 % bootstrap interval over the networks."""
    found = groups(rows)
    head = [
        "figure at initialisation",
        *(f"{network}, {float(sparsity):.0%} ({len(g)})" for (network, sparsity), g in found.items()),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for figure, label in FIGURES.items():
        cells = [shown(column(g, figure), -column(g, "mean_loss")) for g in found.values()]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines) + "\n"


def column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def shown(x: np.ndarray, y: np.ndarray) -> str:
    """rho [low, high]."""
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(x), len(x)) for _ in range(RESAMPLES)]
    rhos = [spearmanr(x[d], y[d]).statistic for d in draws if len(set(x[d])) > 1 and len(set(y[d])) > 1]
    low, high = np.percentile(rhos, [2.5, 97.5])
    return f"{spearmanr(x, y).statistic:+.2f} [{low:+.2f}, {high:+.2f}]"


def draw(rows: Sequence[Row]) -> None:
    """The trace against the mean loss of training, one panel per network and sparsity."""
    found = groups(rows)
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.6), squeeze=False, layout="constrained")
    for axis, ((network, sparsity), group) in zip(axes[0], found.items(), strict=True):
        for name, marker in PASSES.items():
            own = [row for row in group if row["pass"] == name]
            axis.scatter(column(own, "log10_trace"), column(own, "mean_loss"), marker=marker, color=COLOURS[name], label=name, s=28)
        rho = spearmanr(column(group, "log10_trace"), -column(group, "mean_loss")).statistic
        axis.set(
            title=f"{network}, {float(sparsity):.0%} sparse: rho {rho:+.2f}", xlabel="log10 Tr Pi", ylabel="mean training loss"
        )
        axis.grid(alpha=0.25)
    axes[0][0].legend(fontsize=8)
    figure.savefig(HERE / "convergence.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
