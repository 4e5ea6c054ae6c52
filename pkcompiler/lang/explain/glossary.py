"""THE table of words that reports and certificates use: what ``pkc explain`` says of each, and where the theory defines it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """``section``: of docs/theory.md."""

    name: str
    doc: str
    section: int


GLOSSARY: tuple[Term, ...] = (
    # What a number is.
    Term("exact", "a number that holds up to rounding", 2),
    Term("estimated", "a number drawn from random samples, with its standard error (+-)", 3),
    Term(
        "approximate",
        "a step of the method does not hold exactly: unsigned sums drop the centring of a norm, some gains are suprema",
        2,
    ),
    Term("bound", "not the number itself, but a side of it: the text says which", 3),
    Term("not-predicted", "no formula holds here, and no number is given", 4),
    Term("undefined", "the number does not exist, such as a share of nothing", 2),
    # Paths.
    Term("path", "a way from a source (an input, a bias, a constant) to an output entry, through parameters", 1),
    Term("gate", "an elementwise nonlinearity of one tensor; its slope is (phi(z) - phi(0)) / z", 1),
    Term("gain", "of a gate: the supremum of the size of its slope (ReLU 1, sigmoid 1/4), a factor of every path across it", 1),
    Term("piecewise", "a gate whose slope is locally constant: ReLU, leaky ReLU, abs", 1),
    Term("frozen", "of a factor: recorded at the data and taken as a constant; of gates: their slopes are", 1),
    Term("recorded", "of a model that branches on data: one execution was followed, others may differ", 1),
    Term("R_1", "the path L1 norm: the sum over paths of the absolute products of their weights", 2),
    Term("R_2", "the squared path L2 norm: the sum over paths of the squared products of their weights", 2),
    Term("tau", "dR_2/dw of a weight, w = theta^2: the mass of the paths through it, without the weight itself", 3),
    Term("path-kernel", "Pi = J J^T, J the derivatives of path values by parameters; G = J^T J has its nonzero spectrum", 3),
    Term("share", "the part of the whole that crosses a parameter; a path crosses several, so shares may exceed 100%", 2),
    Term("spectral-density", "how the eigenvalues of an operator are spread, by stochastic Lanczos quadrature", 3),
    Term("effective-rank", "trace squared by Frobenius norm squared: how many equal eigenvalues would give both", 3),
    Term("stable-rank", "trace by the largest eigenvalue", 3),
    # What a mask leaves.
    Term("effective", "on at least one path from a source to an output under the mask", 8),
    Term("fed", "on at least one path that begins at an input; the rest begins at biases or constants", 8),
    Term("direct-sparsity", "the part of the prunable weights that the mask removes", 8),
    Term("effective-sparsity", "the part of the prunable weights that is removed or lies on no path", 8),
    Term("unit", "an output channel or neuron: alive, a constant (no input feeds it), or dead (on no path)", 8),
    # Warnings.
    Term("non-finite", "a warning: a tensor holds NaN or an infinity", 6),
    Term("collapsed", "a warning: no path from an input is left, in the model or through a layer", 8),
    Term("near-collapse", "a warning: few units or weights of a masked layer carry all that is left", 8),
    Term("dead-units", "a warning: units that lie on no path, or that no input feeds; they can be removed", 8),
    Term("dead-outputs", "a warning: output entries that depend on no input", 8),
    Term("all-zero", "a warning: every kept entry of a parameter that paths cross is 0", 8),
    Term("unmasked-zeros", "a warning: weights of value 0 that no mask drops count as kept", 8),
    Term("vanishing-mass", "a warning: path mass below the range of float32, or hardly any of it from the inputs", 6),
    Term("exploding-mass", "a warning: path mass beyond the range of float32", 6),
    Term("computed-weights", "a warning: parameters that weights are computed from, and that are pruned only by include", 8),
)
