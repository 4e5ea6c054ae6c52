"""Error codes of numerics."""

from __future__ import annotations

CODES: dict[str, str] = {
    "PKC501": "An argument of a path functional has a value that does not exist. The message lists those that do.",
    "PKC502": "What is computed reads data, and none was given: --data digits, or data=(x, y) in Python.",
    "PKC503": (
        "The certificates do not hold: the path graph computes another function or other derivatives than the model. Do not "
        "trust figures of this model. A wrong plug-in entry is the usual cause, or a model that changes its own gradients (detach, "
        "no_grad, a hook, a backward pass of its own); else it is a bug of pkcompiler."
    ),
    "PKC504": "The trace has fixed the batch size, and the samples do not divide into such batches.",
    "PKC505": "The data do not fit the model's input: another shape, no tensor, or integers where numbers are computed with.",
    "PKC506": (
        "The pass reads the loss, and no loss can be computed: the data have no class labels, or labels that the output has no "
        "entry for. Give labels from 0 on, or define loss(output, target)."
    ),
    "PKC507": "A pass gave NaN as a score: a division of 0 by 0, a logarithm of a negative number. Nothing is pruned by NaN.",
    "PKC508": (
        "The entries of a parameter are so large, so small or so far apart that their edges (squared, for theta^2) leave the range "
        "of the numbers that sweeps compute with: 1e150 in float64. From layer to layer exponents are carried; within one tensor "
        "they are not. Rescale the weights, or set entries that are meant as nothing to 0."
    ),
    "PKC509": (
        "A weight is computed from parameters (weight_norm, spectral_norm, w / w.norm()). Lists of paths and their polynomials are "
        "of stored weights; path_kernel and path_functional take computed ones."
    ),
    "PKC510": (
        "A sum over paths, or its derivative, is NaN or infinite, and no such thing passes for a number. The message names the "
        "operation at which it begins: a literal, a buffer or a recorded value is infinite, or too large to be squared, as a mask "
        "is that is written as a number and stands in front of no softmax."
    ),
    "PKC520": "The Path Kernel is a property of architecture and weights: edge = theta^2, and no gates, pools or norms from data.",
    "PKC521": (
        "The exact diagonal was asked for where more parameter entries can be crossed twice by a path than get a product each. "
        "Restrict the kernel to a group of parameters, or take the trace, which estimates their part with a standard error."
    ),
    "PKC522": "A vector or block does not have as many entries as the kernel has columns, or names none of its parameters.",
    "PKC523": "No parameter of the Path Kernel fits a name or glob of restricted(...).",
    "PKC524": "Paths are enumerated one by one for small graphs only; this one has too many. path_kernel never enumerates them.",
    "PKC525": (
        "A kernel on data has a row per sample and output, and does not fit into the memory given (memory=, in bytes); or what "
        "is recorded of the gates does not. Traces, products and leading eigenpairs do without the matrix."
    ),
    "PKC526": (
        "A tangent kernel needs at least one sample and one parameter that requires grad, a model that autograd can "
        "differentiate, finite outputs and gradients, and an output of each sample that depends on that sample alone."
    ),
    "PKC527": "Targets are missing, or fit the output neither as class labels from 0 on nor as numbers of the output's shape.",
    "PKC528": (
        "Arguments of dynamics that do not fit: lr a positive number, steps a whole number from 1 on, the squared loss, and one"
        " of its reductions."
    ),
    "PKC529": (
        "A Loss Path Kernel is fed by a number of steps, each with a positive learning rate, of one and the same model, and "
        "closed after the last. The loss of every sample is a number and must stay finite."
    ),
    "PKC530": "An argument of predict_trace does not fit: the moments of the inputs, the number of draws, or the method.",
    "PKC531": "initialise=... has to build a new model of the same architecture: the same parameters with the same shapes.",
    "PKC534": "A number of eigenpairs, nodes, probes or samples has to be a whole number, and at least the one named.",
    "PKC535": (
        "A graph has too many paths, or a matrix too many entries, to be written as expressions. The message says how many. "
        "closed_forms gives symbolic widths for any dense model, path_functional and path_kernel give numbers."
    ),
    "PKC536": (
        "A closed form has too many terms to be written out: in a residual network they double with every block. Its "
        "straight-line program is as exact; or let all weights of a kind share a variance, or keep fewer symbols."
    ),
    "PKC537": (
        "An operation has no symbolic form: it multiplies by a stored tensor that differs between channels, or convolves by a "
        "computed kernel. path_functional gives the number."
    ),
    "PKC538": "A closed form is asked for with variances or symbols that do not fit: the message names what is missing or unknown.",
    "PKC540": "rescale has two methods, conditioning and equi-norm (docs/rescaling.md), and takes a tolerance and steps from 0 on.",
    "PKC541": (
        "The rescaled network was compared with the model on random inputs, and it is another function: nothing is kept. "
        "Outputs beside the analysed one may read rescaled units, or the weights do not fit into the model's own precision."
    ),
    "PKC542": "Rescaling aligns the diagonal of the Path Kernel, which is zero: no path reaches the output.",
    "PKC543": "Rescaled weights are written to a .safetensors file, and an existing file is replaced with --force only.",
    "PKC544": (
        "Second derivatives are asked for, and torch has none for an operator of the model. The message names the operator. "
        "Choose a pass that takes first derivatives only."
    ),
    "PKC545": (
        "squares(output, theta) reads the outputs of each sample alone. In training mode a batch normalisation mixes samples: "
        "leave mode = train out."
    ),
    "PKC550": (
        "The analysis runs the model, and there is only its graph with its tensors (an artifact holds no code). Analyse the "
        "model itself: pkc analyze MODEL --with NAME."
    ),
    "PKC551": (
        "Kernels on data and predictions are taken of the output that the model returns first, and --output chose another. Wrap"
        " the model so that it returns that output alone."
    ),
    "PKC560": (
        "walks(E) hops with a probability proportional to E, which must be finite and not below 0 everywhere: "
        "walks(abs(theta)). With a number for E every weight that leads on is equally likely."
    ),
    "PKC561": (
        "Walks cannot cross a convolution whose kernel is computed from parameters: store the kernel itself as the parameter."
    ),
    "PKC562": (
        "A walk visits only what lies on a path from an input to an output along weights other than 0, and the target keeps "
        "more than that. The message says how many there are."
    ),
    "PKC563": (
        "The chance of a weight to be visited is proportional to its size, so the smallest ones take very many walks. A pass of"
        " walks is for low densities; of a scope other than global, every layer must be visited as often as it keeps."
    ),
    "PKC564": "No walk leads from an input to an output: some layer has no weight left, or its weights are all 0.",
    "PKC565": (
        "model() and noise() go through the input that data stands for. Where the model takes integers, noise() draws rows of "
        "its table of embeddings, all equally likely, and nothing can be computed with them before model() reads them. The "
        "statistics of a BatchNorm come from samples that give each channel two values or more, in evaluation mode."
    ),
    "PKC566": (
        "repeat averages over what is drawn: noise(), init, and dropout with mode = train. Where nothing is drawn, every "
        "repetition gives the same score. A warning."
    ),
    "PKC567": (
        "after(F, ...) evaluates the number F anew at the weights after training: F is loss, or made of loss and output. With "
        "batches = each, every step and F take a batch of their own, so there must be steps + 1 samples or more."
    ),
    "PKC569": "The steps of after(F, ...) left the finite numbers: the rate lr is too large for these weights and data.",
    "PKC570": (
        "balance(E) orders the weights of each parameter on their own, for as many as its layer keeps. So the layers must know how"
        " many that are: scope = erk, layer or uniform."
    ),
}
