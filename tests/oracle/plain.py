"""Multilayer perceptrons and their kin: sums, concatenations, gates, shared layers, parameters that enter as values."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from oracle.case import family


@family(3, piecewise=True)
class MlpBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))

    def paths(self, g, x):
        return g.linear(g.gate(g.linear(g.gate(g.linear(x, self.a), "relu"), self.b), "relu"), self.c)


@family(3, piecewise=True)
class DeepLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(4)])

    def forward(self, x):
        return self.layers(x)

    def paths(self, g, x):
        for layer in self.layers:
            x = g.linear(x, layer)
        return x


@family(3, piecewise=True)
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        x = x + nn.functional.leaky_relu(self.a(x), 0.1)
        x = self.b(x).relu() - x
        return self.out(x)

    def paths(self, g, x):
        x = g.combine([(x, 1.0), (g.gate(g.linear(x, self.a), "leaky"), 1.0)])
        x = g.combine([(g.gate(g.linear(x, self.b), "relu"), 1.0), (x, -1.0)])
        return g.linear(x, self.out)


@family(3, piecewise=True)
class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 2), nn.Linear(5, 2), nn.Linear(7, 2)

    def forward(self, x):
        x = torch.cat([x, self.a(x).relu()], dim=1)
        x = torch.cat([self.b(x).relu(), x], dim=-1)
        return self.out(x)

    def paths(self, g, x):
        x = np.concatenate([x, g.gate(g.linear(x, self.a), "relu")])
        x = np.concatenate([g.gate(g.linear(x, self.b), "relu"), x])
        return g.linear(x, self.out)


@family(3)
class SineMlp(nn.Module):
    """A gate whose slopes take both signs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.sin(3 * self.a(x)))))

    def paths(self, g, x):
        return g.linear(g.gate(g.linear(g.gate(g.linear(x, self.a), "sin"), self.b), "tanh"), self.c)


@family(3)
class SiluMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.c(nn.functional.gelu(self.b(nn.functional.silu(self.a(x)))))

    def paths(self, g, x):
        return g.linear(g.gate(g.linear(g.gate(g.linear(x, self.a), "silu"), self.b), "gelu"), self.c)


@family(3)
class CompositeGate(nn.Module):
    """Pointwise subgraphs of one tensor, written out: each is one gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        x = self.a(x)
        x = x * torch.sigmoid(x)
        x = self.b(x)
        x = 0.5 * x * (1.0 + torch.tanh((2.0 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))
        return self.c(x)

    def paths(self, g, x):
        return g.linear(g.gate(g.linear(g.gate(g.linear(x, self.a), "silu"), self.b), "gelu_tanh"), self.c)


@family(3)
class GateConstants(nn.Module):
    """phi(0) != 0: the sigmoid and the cosine are constant sources too."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.c(torch.cos(self.b(torch.sigmoid(self.a(x)))))

    def paths(self, g, x):
        return g.linear(g.gate(g.linear(g.gate(g.linear(x, self.a), "sigmoid"), self.b), "cos"), self.c)


@family(3, piecewise=True)
class Literals(nn.Module):
    """Literals as factors and as constant sources."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        h = self.b(-2.5 * self.a(x) + x / 4.0 - 0.75)
        return self.c(h.relu())

    def paths(self, g, x):
        h = g.linear(g.combine([(g.linear(x, self.a), -2.5), (x, 0.25)], constant=-0.75), self.b)
        return g.linear(g.gate(h, "relu"), self.c)


@family(3, piecewise=True)
class SharedTwice(nn.Module):
    """One layer crossed twice by a path, and a third time by a skip."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(self.a(h).relu() + h)

    def paths(self, g, x):
        h = g.gate(g.linear(x, self.a), "relu")
        return g.linear(g.combine([(g.gate(g.linear(h, self.a), "relu"), 1.0), (h, 1.0)]), self.b)


@family(3, piecewise=True)
class TiedWeights(nn.Module):
    """The same parameter in two modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())

    def paths(self, g, x):
        return g.linear(g.gate(g.linear(g.gate(g.linear(x, self.a), "relu"), self.b), "relu"), self.c)


@family(3, vocabulary=4, piecewise=True)
class EmbeddingSum(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.a, self.b = nn.Embedding(4, 2), nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(self.a(self.e(x).sum(1)).relu())

    def paths(self, g, x):
        rows = g.embedding(x, self.e.weight)
        summed = g.combine([(row, 1.0) for row in rows])
        return g.linear(g.gate(g.linear(summed, self.a), "relu"), self.b)


@family(2, 2, piecewise=True)
class ClassToken(nn.Module):
    """A class token and a positional embedding enter as values; a layer scale multiplies."""

    def __init__(self):
        super().__init__()
        self.token, self.position, self.gamma = (nn.Parameter(torch.ones(s)) for s in ((1, 1, 2), (1, 3, 2), (2,)))
        self.a, self.mix = nn.Linear(2, 2), nn.Linear(3, 2)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = self.gamma * self.a(x).relu()
        return self.mix(x.transpose(1, 2))

    def paths(self, g, x):
        x = np.concatenate([g.value(self.token)[0], x])
        x = g.gate(g.linear(g.combine([(x, 1.0), (g.value(self.position)[0], 1.0)]), self.a), "relu")
        return g.linear(g.scale(x, self.gamma).T, self.mix)
