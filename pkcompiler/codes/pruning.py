"""Error codes of pruning."""

from __future__ import annotations

CODES: dict[str, str] = {
    "PKC401": "A mask names no parameter, or does not have its shape, or holds other values than 0 and 1.",
    "PKC402": (
        "A glob of include, except or floor matches no parameter (a floor: none that can be pruned), or nothing is prunable. "
        "Weights of linear and convolution layers are by default."
    ),
    "PKC403": (
        "What except and floors protect is already more than the target keeps. N counts what is prunable after include and "
        "before except, so protected weights count as kept."
    ),
    "PKC404": "Settings of a run that make no sense together: no pass, no target, a number out of its range.",
    "PKC405": "A parameter holds a NaN or an infinity. Scores computed from it would mean nothing.",
    "PKC410": (
        "Layer collapse: no path from an input to an output is left, and the network is a constant. The run stops, and the "
        "masks of the last good round are kept in the unfinished folder."
    ),
    "PKC411": "The device is not there, this torch cannot use it, or it holds no numbers of the precision asked for.",
    "PKC412": (
        "A loss is a function of output and target that returns the mean over the samples, a tensor with one entry; or where "
        "samples weigh differently (sum, weight), the weight from the targets alone: then the loss is the sum over all batches "
        "by the weight of all. Of what F.cross_entropy returns the weight is known. It is named by path/file.py:function."
    ),
    "PKC413": (
        "Every score is 0, and a target can only be met by dropping weights in order of position. A layer whose weights or gains "
        "are all 0 makes every product over it 0, and a loss whose targets are all ignored has no derivative."
    ),
    "PKC420": (
        "A curve as an expression in k, n and rho is the density after round k of n on the way from 1 to rho: it falls, from at"
        " most 1 at k = 0 to rho at k = n. That is proved for every n >= 1 and every rho from 0 to 1, or the curve is refused."
    ),
    "PKC421": (
        "Settings of a stage that exclude each other: rounds and visits in training, rewind before training, swap without "
        "regrow, a budget or a structure with the published rule of selection or with a local scope; or stages out of order."
    ),
    "PKC422": (
        "A structure does not fit a parameter: N:M needs a number of inputs that M divides, and both it and blocks need outputs"
        " and inputs, which biases, gains and embeddings do not have. Leave such parameters whole: except = GLOB."
    ),
    "PKC423": (
        "A target that a structure, a floor, a requirement, masks that are given, what is never pruned or the number of weights "
        "makes unreachable, with the number by which it misses."
    ),
    "PKC424": (
        "The masks do not have (or no stage can give them) the structure that lower demands of them. The first group that breaks "
        "it is named."
    ),
    "PKC425": (
        "A stage runs in training (at = end, epochs or steps), where only your own loop can call it: schedule.cycles in Python."
        " pkc prune refuses such a schedule."
    ),
    "PKC440": (
        "The units of this model cannot be grouped from its path graph alone: a recorded factor is computed from values that "
        "the graph does not name. Give them, as the message says."
    ),
    "PKC441": "The scores given for a parameter have another shape than the parameter.",
    "PKC442": "Whole units are to be removed, and no parameter with a score makes one that can be. See pkc ir --groups MODEL.",
    "PKC443": (
        "Whole units cannot reach this target: every layer keeps one, and units of the input and output stay. Ask for a larger "
        "density, or remove single weights."
    ),
    "PKC444": (
        "A weight is computed from the parameter (weight_norm, spectral_norm, w / w.norm(), sigmoid(g) * w). Passes of first "
        "derivatives score it; random walks, orders by paths and derivatives that are differentiated again read weights alone."
    ),
    "PKC445": (
        "Whole channels are to go, and a weight that has some is computed from parameters (weight_norm, spectral_norm, "
        "w / w.norm()). What it is divided by changes with every entry, so that the channels that stay would change too. Fold the "
        "computation into the weight, or prune single entries."
    ),
    "PKC450": (
        "A schedule of which every stage runs before training leaves nothing to do in a loop of training. For such schedules "
        "there is pkcompiler.prune."
    ),
    "PKC451": (
        "A round of a schedule, or the moment to which it rewinds, lies where training never comes: after its last epoch or "
        "step, or at a rewinding that is not before its round."
    ),
    "PKC452": (
        "The loop of training calls a cycle out of order: cycle.step() after every optimizer.step(), cycle.epoch_end() last in "
        "every epoch, all epochs of a cycle before the next."
    ),
    "PKC453": (
        "A state within an epoch is to be recorded or gone back to, and only your loop knows how many batches it has read. Read"
        " them through cycle.batches(loader)."
    ),
    "PKC454": (
        "A checkpoint was written by a run with another schedule, model, optimizer, learning rate, loader (its batches, their "
        "size, how many samples) or number of epochs. Nothing is taken from it."
    ),
    "PKC455": "A checkpoint exists, and the run was not asked to go on with it. It is never overwritten by another run.",
    "PKC456": "The file is no checkpoint of training, it is damaged, or it holds what this run cannot have written.",
    "PKC457": "A state_dict() that belongs into a checkpoint holds something that is neither a tensor nor a plain value.",
    "PKC458": "An argument of schedule.cycles is missing or out of its range.",
    "PKC459": "A round is due while a stage before its own has not come to its last one: stages run in the order of the text.",
    "PKC460": "The optimizer was made from another model (or before the model's parameters were replaced): it would train nothing.",
    "PKC461": "An average of weights that is to follow the masks of training has other parameters than the model that is trained.",
    "PKC462": (
        "A weight is computed from a parameter by a division (weight_norm, w / w.norm()), and masks drop all of one of its rows, "
        "which would be 0/0. lower makes such rows of torch's own norms 0; a forward of your own divides by what is never 0."
    ),
    "PKC463": (
        "There are no masks that could be taken off: nothing of the model is masked, or it is a lowered network, whose graph has "
        "the masks. Its weights load into a model of the class that was lowered."
    ),
    "PKC464": "Nothing of a model or of its weights is a mask: there is no tensor 'weight_mask' of 0 and 1 beside 'weight'.",
    "PKC465": "A tensor is called as masks are, and stands beside a weight of its shape, but holds other numbers than 0 and 1.",
    "PKC470": "A mask has a name that no parameter of the model has, or has no more since it was masked.",
    "PKC471": "A mask has another shape than its parameter, or than what took the parameter's place since it was masked.",
    "PKC472": "A mask is not a torch.bool tensor. True means kept.",
    "PKC473": (
        "Two masks name one tied parameter and differ: one is enough, under either name. Or parameters share memory in different "
        "layouts (transposed, sliced), and no zeros can be stored in one that the other does not have."
    ),
    "PKC474": (
        "A parameter cannot be masked: it is expanded (its entries share memory), its module is lazy and has not been called yet, "
        "it is an embedding with sparse gradients or with max_norm, it was made under torch.inference_mode, so that nothing can "
        "train it, or FullyShardedDataParallel keeps it as a piece of a flat one (fully_shard does not)."
    ),
    "PKC475": (
        "A pass, a schedule or an analysis of a study reads data. Nothing but the study names its data: data = digits(per_class"
        " = 10)."
    ),
    "PKC476": "Studies need joblib and pyarrow, which are an extra: pip install 'pkcompiler[study]'.",
    "PKC477": (
        "The function that a study trains with is not there, does not take (model, seed, device), or did not return a dict of "
        "numbers, such as {'accuracy': 0.97}."
    ),
    "PKC478": (
        "Cells of a study failed. Each failure is kept in its file with its traceback, the other cells are finished. Once the "
        "cause is gone, 'pkc study FILE --retry-failed' does the failed cells again, and only these."
    ),
    "PKC479": (
        "A worker process of a study died: the system ended it, most often because memory ran out, or the code of the model or "
        "of train() crashed. Finished cells are kept; the same command with fewer --jobs goes on."
    ),
    "PKC480": (
        "A stage of a schedule runs during or after training (at = epochs(...), at = end), or rewinds. A study prunes before it"
        " trains; such a schedule is driven from your own training loop."
    ),
    "PKC481": "The folder of a study holds something else.",
    "PKC482": (
        "The code of a model or of train() changed while the study ran, so that nobody could tell which of both a cell shows."
    ),
}
