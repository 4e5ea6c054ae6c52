"""Convolutions, pools and batch normalisation."""

from __future__ import annotations

from torch import nn

from oracle.case import family


@family(2, 3, 3, piecewise=True)
class ConvPaddedStridedGrouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=(0, 1), groups=2)
        self.b = nn.Conv2d(4, 2, 2, stride=1, padding=0)

    def forward(self, x):
        return self.b(self.a(x).relu())

    def paths(self, g, x):
        return g.conv(g.gate(g.conv(x, self.a), "relu"), self.b)


@family(2, 6, piecewise=True)
class ConvDilated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 2, 3, dilation=2, padding=1), nn.Conv1d(2, 3, 2, dilation=3, bias=False)

    def forward(self, x):
        return self.b(self.a(x).relu())

    def paths(self, g, x):
        return g.conv(g.gate(g.conv(x, self.a), "relu"), self.b)


@family(2, 2, 2, piecewise=True)
class ConvTransposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ConvTranspose2d(2, 4, 2, stride=2, padding=1, output_padding=1, groups=2)
        self.b = nn.ConvTranspose2d(4, 1, (1, 2), stride=1, dilation=2)

    def forward(self, x):
        return self.b(self.a(x).relu())

    def paths(self, g, x):
        return g.conv_transposed(g.gate(g.conv_transposed(x, self.a), "relu"), self.b)


@family(2, 3, 3, piecewise=True)
class AvgPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 2, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        x = nn.functional.avg_pool2d(self.a(x).relu(), 2, stride=2, padding=1)
        x = nn.functional.avg_pool2d(x, 2, stride=2, padding=1, count_include_pad=False)
        return self.b(nn.functional.adaptive_avg_pool2d(x, (2, 1)).flatten(1))

    def paths(self, g, x):
        x = g.average_pool(g.gate(g.conv(x, self.a), "relu"), 2, 2, 1, True)
        x = g.average_pool(x, 2, 2, 1, False)
        return g.linear(g.mean(x).reshape(-1), self.b)


@family(2, 3, 3, piecewise=True)
class MaxPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 2, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.a(x).relu(), 2, stride=1, padding=1)
        x = nn.functional.max_pool2d(x, 3, stride=2)
        return self.b(x.mean(-1).flatten(1))

    def paths(self, g, x):
        x = g.max_pool(g.gate(g.conv(x, self.a), "relu"), 2, 1, 1)
        x = g.max_pool(x, 3, 2, 0)
        return g.linear(g.mean(x).reshape(-1), self.b)


@family(2, 2, 2, piecewise=True)
class BatchNorm(nn.Module):
    """Non-trivial statistics; gains of both signs (the drawn parameters are normal)."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b, self.m = nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        x = self.n(self.a(x)).relu().flatten(1)
        return self.m(self.b(x))

    def paths(self, g, x):
        x = g.gate(g.batch_norm(g.conv(x, self.a), self.n), "relu").reshape(-1)
        return g.batch_norm(g.linear(x, self.b), self.m)
