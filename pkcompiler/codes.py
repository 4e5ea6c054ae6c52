"""THE table of error codes: what each means and what to do. Every layer adds rows for its own; ``pkc explain CODE`` prints one.

0xx syntax, 1xx declarations, 2xx models and operators, 3xx IR invariants, 4xx pruning, 5xx numerics, 6xx files.
"""

from __future__ import annotations

from textwrap import fill

GROUPS = {
    "0": "syntax",
    "1": "declarations",
    "2": "models and operators",
    "3": "IR invariants",
    "4": "pruning",
    "5": "numerics",
    "6": "files",
}

CODES: dict[str, str] = {
    "PKC001": (
        "The text does not have one of the three shapes: setting = value, keyword LABEL = value, kind NAME { ... }. The "
        "carets stand at the first piece that does not fit, and the label says what could have stood there. Reading goes "
        "on at the next setting, so one mistake does not hide the others."
    ),
    "PKC002": (
        "A character that the language does not use, or a backslash in a text that stands before something else than a "
        "double quote or a backslash. Outside of texts there are names, numbers, # comments and = , ( ) { } + - * / ^ .. "
        ": only."
    ),
    "PKC003": "A text begins with a double quote and must end with one on the same line.",
    "PKC004": "A block is opened with { and the file ends before its }.",
    "PKC005": "Parentheses, blocks or operations are nested more than 100 deep. Name inner parts with let.",
    "PKC006": "A file of the language may have at most 1 MB.",
    "PKC007": "A number has more than 40 digits, or is larger than 1.8e308.",
    "PKC008": "A file of the language is UTF-8 text. This one holds other bytes.",
    "PKC009": "A file is not laid out canonically. 'pkc fmt FILE' rewrites it, keeping its comments; 'pkc fmt --check' only looks.",
    "PKC051": "A printed graph is too large to read (64 million characters), or its brackets are nested more than 100 deep.",
    "PKC052": (
        "A printed graph does not continue as it must. A graph reads: path.graph @name(%x: f32[B, 4]) -> f32[B, 2] { slots, "
        "operations, return %y }. An operation reads: %y: f32[B, 2] = word %x, operand=@slot {attribute = value}."
    ),
    "PKC053": "A number, a size or a text in a printed graph is malformed. Texts are written with the escapes of JSON.",
    "PKC054": "An operation of a printed graph begins with a word that names no path map.",
    "PKC055": "An attribute of a printed graph is unknown, missing, given twice, or of the wrong kind.",
    "PKC056": "An operand of a printed graph (a slot or a fixed factor) is unknown, missing, given twice, or of the wrong kind.",
    "PKC101": "A block begins with a word that is none: a file declares pass, analysis, schedule and study, a schedule holds prune.",
    "PKC102": "A setting that this block does not have. Either it is misspelled, or it belongs in another block.",
    "PKC103": "Something is called that is not a function. 'pkc explain FUNCTION' explains one of them.",
    "PKC104": (
        "A name that is neither a let above the line nor one of theta, mask, data, loss, output. Names may contain "
        "hyphens, so a minus needs spaces around it. A let is known from its own line on."
    ),
    "PKC105": "The value is not one of those that this setting or argument takes. The label lists them.",
    "PKC106": (
        "A number out of its range, without its unit, or with one that does not belong there. Parts are written 98% or "
        "0.98, never 98; a compression 50x or 50; rounds and seeds are whole numbers."
    ),
    "PKC107": (
        "A setting, an argument or a name is given twice, or a let takes a word of the language. Nothing is overwritten silently."
    ),
    "PKC108": (
        "A declaration lacks what it cannot do without: a pass its score, an analysis at least one report, a schedule at least "
        "one prune."
    ),
    "PKC109": (
        "The word is spelled correctly and belongs to the language, but this version does not carry it out yet. Leave it "
        "out, or use a later version."
    ),
    "PKC110": "A function is given too many, too few or unknown arguments. Reductions name their axis: sum(E, over = sample).",
    "PKC111": (
        "Kinds do not fit. The kind of an expression is its set of axes out of sample, output, input, param: theta and "
        "mask have [param], data [sample, input], output [sample, output], a number none. A number combines with "
        "anything; else the axes must be equal, for nothing broadcasts. A score has [param]. An operator (gram, ntk) is read by "
        "functions such as trace, never computed with."
    ),
    "PKC112": (
        "grad(F, u) needs a number F and, as u, exactly theta, mask, or the edge of F (after substitution of let). By "
        "theta it is the derivative by the effective weight theta * mask; grad(F, mask) = theta * grad(F, theta); grad(F, "
        "theta^2) is dF/dw of a functional whose edge is w = theta^2. Of several path functionals with different edges "
        "only theta and mask are left. F may hold derivatives, but no derivatives of derivatives."
    ),
    "PKC113": (
        "A stage has exactly one target: density (what is kept), sparsity (what is removed), compression (weights per kept "
        "weight), flops (the part of the multiply-adds that is left) or size (bytes of the saved weights)."
    ),
    "PKC114": (
        "Stages run in order, each from the mask that the last one left, and a mask only shrinks. So a target may not be "
        "looser than the one that is already reached."
    ),
    "PKC115": (
        "A pass or an analysis does not say where it was published. In the library that is an error; in a file of your own it "
        "is a warning."
    ),
    "PKC116": "A let that nothing reads. It changes nothing; perhaps a line below was meant to use it. A warning.",
    "PKC117": (
        "There is no such pass, analysis or schedule. A bare name is looked up in the library, anything with / or .pkc is a file, "
        "and file.pkc:name picks one of several."
    ),
    "PKC118": (
        "A word in the wrong place or shape: a setting outside of a declaration, a block where a value belongs, a name in quotes."
    ),
    "PKC119": "The file declares none of what is looked for, or several of them. file.pkc:name picks one.",
    "PKC120": (
        "gram(R) is the operator J^T J of the paths behind R, where R is their squared functional: paths(edge = theta^2, ...) "
        "itself, with open gates, over all inputs and outputs. pools, products and constants may be chosen."
    ),
    "PKC121": (
        "A stage's pass reads data, the loss or the output, and the schedule names no data. The data can still be given "
        "on the command line or by the caller. A warning."
    ),
    "PKC122": "'pkc explain' knows passes, analyses, words of the language, words of reports and error codes.",
    "PKC123": (
        "Operators, what reads them, predictions and collapse() belong in an analysis. A pass scores parameters by path "
        "functionals and the loss."
    ),
    "PKC124": 'collapse(PASS) takes the name of a pass, collapse(synflow), or a file in double quotes, collapse("./mine.pkc").',
    "PKC301": "Two values or two slots of a graph have the same name.",
    "PKC302": "An operation reads a value that no input and no operation above it defines.",
    "PKC303": "An operation reads a slot (a parameter, buffer or constant) that the graph does not declare.",
    "PKC304": (
        "A slot stands where its role or element type does not belong: a scale is by a parameter, into a fixed factor no "
        "parameter enters, an index has integers, and only parameters are prunable."
    ),
    "PKC305": "The declared type of a value is not the one that its operation gives.",
    "PKC306": "An attribute of an operation has a value that no operation can have.",
    "PKC307": "An operation has too few or too many inputs.",
    "PKC308": "A graph returns nothing, or a value that it does not define.",
    "PKC309": "An operation on which nothing that is returned depends. A graph holds live operations only.",
    "PKC310": "A slot is declared that no operation reads.",
    "PKC311": "A type has an unknown element type, a negative size, or a batch dimension where none can be.",
    "PKC312": "The shapes of an operation's inputs and slots cannot go together.",
    "PKC313": "The types in the header of a printed graph are not those of what it returns.",
    "PKC201": (
        "The lift met an operator that it cannot give a meaning to, and it never guesses. All such operators are reported "
        "at once. If the operator acts on every entry alone, --gate OP reads it as a gate; else give it a meaning with @path_op in "
        "a file of yours and load it with --plugin my_ops.py (docs/own-operator.md)."
    ),
    "PKC202": (
        "Every use of every parameter must be understood, or scores would be silently wrong. The message names the first use that "
        "was not; the operator there needs a meaning: --plugin my_ops.py."
    ),
    "PKC203": "The model cannot be called with these inputs. Give others: --input 1x3x32x32, or example_inputs() in its file.",
    "PKC204": "Path analysis follows one floating-point output. Choose it by name or index with --output.",
    "PKC205": (
        "torch.export cannot trace the model, or the model branches on the values of its tensors and meets data that take another "
        "branch than the execution that was recorded."
    ),
    "PKC206": "Dimension 0 of every input is the batch. A dimension grows with the batch in another way than as a multiple of it.",
    "PKC207": "A torch.nn.Module was expected, not a class, a function or a state dict.",
    "PKC208": (
        "Logarithms, square roots, 1/x and norms have no slope at 0. They are recorded at the data as factors, and paths do not "
        "cross them. Here nothing else leads from the inputs to the output, so that no path is left. Analyse what stands before."
    ),
    "PKC240": (
        "A model (or data factory) is named by path/file.py, path/file.py:name or package.module:name. Dimension 0 of its "
        "inputs is the batch."
    ),
    "PKC241": "Arguments for the factory are given as --arg key=value, each once. The value is a Python literal, else it is text.",
    "PKC242": "There is no such file, folder or module. A dotted module is looked for in the current folder, too.",
    "PKC243": (
        "The user's own code raised an exception while it was imported or called. The carets stand at the innermost line "
        "of the user's file that led to it."
    ),
    "PKC244": "The given arguments do not fit the signature of what is called, or are given to a model that is built already.",
    "PKC245": (
        "Without :name, 'model' is meant, else the only nn.Module instance, function or nn.Module subclass that the file "
        "itself defines and that can be called with the given arguments. Here there is none, or there are several."
    ),
    "PKC246": "The file or module has no such name.",
    "PKC247": "What the spec names, or what its factory returned, is not a torch.nn.Module.",
    "PKC250": (
        "An input is given as [NAME=][DTYPE:]SHAPE, batch first: 1x3x32x32, int64:1x128, mask=bool:1x16. The dtype is "
        "float32 by default."
    ),
    "PKC251": (
        "Neither --input nor a function example_inputs() in the model's file says what the model takes. The notes give "
        "both, with a shape guessed from the first layer."
    ),
    "PKC252": "example_inputs() returns a tensor, a tuple of tensors (positional), or a dict of tensors (keywords).",
    "PKC270": (
        "A lowered network is a graph, which would lose hooks of the model, of its modules or of its parameters. Hooks of "
        "torch's own weight_norm and spectral_norm are kept. apply_masks keeps the class with all its hooks."
    ),
    "PKC271": "The model overrides a method that a lowered graph would not run, such as train. apply_masks keeps the class.",
    "PKC272": "The model cannot be traced symbolically. It is recorded on an example then: lower(model, masks, example_inputs).",
    "PKC273": (
        "The model can be neither traced nor exported: its forward branches on data, or draws random numbers outside of "
        "torch. apply_masks keeps the class."
    ),
    "PKC275": (
        "A lowered network is not pickled, since reading it back can silently change its operators. Save its state_dict, "
        "and lower again after loading."
    ),
    "PKC276": "An exported network was called with other sizes than it was recorded for. Dimension 0 may vary, the rest may not.",
    "PKC277": "The exported graph names its floating type, so .half() and the like would mix types. Change the type, then lower.",
    "PKC401": "A mask names no parameter, or does not have its shape, or holds other values than 0 and 1.",
    "PKC402": (
        "A glob of include, except or floor matches no parameter, or nothing is prunable. Weights of linear and "
        "convolution layers are by default."
    ),
    "PKC403": (
        "What except and floors protect is already more than the target keeps. N counts what is prunable after include "
        "and before except, so protected weights count as kept."
    ),
    "PKC404": "Settings of a run that make no sense together: no pass, no target, a number out of its range.",
    "PKC405": "A parameter holds a NaN or an infinity. Scores computed from it would mean nothing.",
    "PKC410": (
        "Layer collapse: no path from an input to an output is left, and the network is a constant. The run stops, and the "
        "masks of the last good round are kept in the unfinished folder."
    ),
    "PKC411": "The device is not there, or this torch cannot use it.",
    "PKC412": (
        "A loss is a function of output and target that returns the mean over the batch: a tensor with one entry. It is named "
        "by path/file.py:function."
    ),
    "PKC420": (
        "A curve as an expression in k, n and rho is the density after round k of n on the way from 1 to rho: it falls, from at "
        "most 1 at k = 0 to rho at k = n. That is proved for every n >= 1 and every rho from 0 to 1, or the curve is refused."
    ),
    "PKC421": (
        "Settings of a stage that exclude each other: rounds and visits in training, rewind before training, swap without "
        "regrow, a budget or a structure with the published rule of selection or with a local scope; or stages out of order."
    ),
    "PKC440": (
        "The units of this model cannot be grouped from its path graph alone: a recorded factor is computed from values that the "
        "graph does not name. Give them, as the message says."
    ),
    "PKC441": "The scores given for a parameter have another shape than the parameter.",
    "PKC442": "Whole units are to be removed, and no parameter with a score makes one that can be. See pkc ir --groups MODEL.",
    "PKC443": (
        "Whole units cannot reach this target: every layer keeps one, and units of the input and output stay. Ask for a larger "
        "density, or remove single weights."
    ),
    "PKC422": (
        "A structure does not fit a parameter: N:M needs a number of inputs that M divides, and both it and blocks need outputs "
        "and inputs, which biases, gains and embeddings do not have. Leave such parameters whole: except = GLOB."
    ),
    "PKC423": (
        "A target that a structure, a floor, a requirement or what is never pruned makes unreachable, with the number by which it "
        "misses."
    ),
    "PKC424": "The masks do not have the structure that lower demands of them. The first group that breaks it is named.",
    "PKC425": (
        "A stage runs in training (at = end, epochs or steps), where only your own loop can call it: schedule.cycles in Python. "
        "pkc prune runs what comes before training."
    ),
    "PKC450": (
        "A schedule of which every stage runs before training leaves nothing to do in a loop of training. For such schedules there "
        "is pkcompiler.prune."
    ),
    "PKC451": (
        "A round of a schedule, or the moment to which it rewinds, lies where training never comes: after its last epoch or step, "
        "or at a rewinding that is not before its round."
    ),
    "PKC452": (
        "The loop of training calls a cycle out of order: cycle.step() after every optimizer.step(), cycle.epoch_end() last in "
        "every epoch, all epochs of a cycle before the next."
    ),
    "PKC453": (
        "A state within an epoch is to be recorded or gone back to, and only your loop knows how many batches it has read. Read "
        "them through cycle.batches(loader)."
    ),
    "PKC454": (
        "A checkpoint was written by a run with another schedule, model, optimizer or number of epochs. Nothing is taken from it."
    ),
    "PKC455": "A checkpoint exists, and the run was not asked to go on with it. It is never overwritten by another run.",
    "PKC456": "The file is no checkpoint of training, or it is damaged.",
    "PKC457": "A state_dict() that belongs into a checkpoint holds something that is neither a tensor nor a plain value.",
    "PKC458": "An argument of schedule.cycles is missing or out of its range.",
    "PKC459": "A round is due while a stage before its own has not come to its last one: stages run in the order of the text.",
    "PKC460": "The optimizer was made from another model (or before the model's parameters were replaced): it would train nothing.",
    "PKC470": "A mask has a name that no parameter of the model has.",
    "PKC471": "A mask has another shape than its parameter.",
    "PKC472": "A mask is not a torch.bool tensor. True means kept.",
    "PKC473": "Two masks name one tied parameter and differ. One is enough, under either name.",
    "PKC474": (
        "A parameter cannot be masked: its module is lazy and has not been called yet, or it is an embedding with "
        "sparse gradients or with max_norm."
    ),
    "PKC475": (
        "A pass, a schedule or an analysis of a study reads data. Nothing but the study names its data: data = "
        "digits(per_class = 10)."
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
        "A stage of a schedule runs during or after training (at = epochs(...), at = end), or rewinds. A study prunes before "
        "it trains; such a schedule is driven from your own training loop."
    ),
    "PKC481": "The folder of a study holds something else.",
    "PKC482": "The code of a model or of train() changed while the study ran, so that nobody could tell which of both a cell shows.",
    "PKC501": "An argument of a path functional has a value that does not exist. The message lists those that do.",
    "PKC502": "What is computed reads data, and none was given: --data digits, or data=(x, y) in Python.",
    "PKC503": (
        "The certificates do not hold: the path graph computes another function or other derivatives than the model. Do not "
        "trust figures of this model. A wrong plug-in entry is the usual cause; without plug-ins it is a bug of pkcompiler."
    ),
    "PKC504": "The trace has fixed the batch size, and the samples do not divide into such batches.",
    "PKC505": "The data do not fit the model's input: another shape, no tensor, or integers where numbers are computed with.",
    "PKC506": (
        "The pass reads the loss, and no loss can be computed: the data have no class labels, or labels that the output has no "
        "entry for. Give labels from 0 on, or define loss(output, target)."
    ),
    "PKC507": "A pass gave NaN as a score: a division of 0 by 0, a logarithm of a negative number. Nothing is pruned by NaN.",
    "PKC520": "The Path Kernel is a property of architecture and weights: edge = theta^2, and no gates, pools or norms from data.",
    "PKC521": (
        "The exact diagonal was asked for where more parameter entries can be crossed twice by a path than get a product each. "
        "Restrict the kernel to a group of parameters, or take the trace, which estimates their part with a standard error."
    ),
    "PKC522": "A vector or block does not have as many entries as the Path Kernel has columns, or names none of its parameters.",
    "PKC523": "No parameter of the Path Kernel fits a name or glob of restricted(...).",
    "PKC524": "Paths are enumerated one by one for small graphs only; this one has too many. path_kernel never enumerates them.",
    "PKC525": (
        "A kernel on data has a row per sample and output, and does not fit into the memory given (memory=, in bytes); or what is "
        "recorded of the gates does not. Traces, products and leading eigenpairs do without the matrix."
    ),
    "PKC526": (
        "A tangent kernel needs at least one sample and one parameter that requires grad, a model that autograd can differentiate, "
        "finite outputs and gradients, and an output of each sample that depends on that sample alone."
    ),
    "PKC527": "Targets are missing, or fit the output neither as class labels from 0 on nor as numbers of the output's shape.",
    "PKC528": (
        "Arguments of dynamics that do not fit: lr a positive number, steps a whole number from 1 on, the squared loss, and one of "
        "its reductions."
    ),
    "PKC529": (
        "A Loss Path Kernel is fed by a number of steps, each with a positive learning rate, of one and the same model, and closed "
        "after the last. The loss must stay finite."
    ),
    "PKC530": "An argument of predict_trace does not fit: the moments of the inputs, the number of draws, or the method.",
    "PKC531": "initialise=... has to build a new model of the same architecture: the same parameters with the same shapes.",
    "PKC540": "rescale has two methods: conditioning and equi-norm (docs/rescaling.md).",
    "PKC541": (
        "The rescaled network was compared with the model on random inputs, and it is another function: nothing is kept. Outputs "
        "beside the analysed one may read rescaled units, or the weights do not fit into the model's own precision."
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
        "The analysis runs the model, and there is only its graph with its tensors (an artifact holds no code). Analyse the model "
        "itself: pkc analyze MODEL --with NAME."
    ),
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
    "PKC551": (
        "Kernels on data and predictions are taken of the output that the model returns first, and --output chose another. Wrap "
        "the model so that it returns that output alone."
    ),
    "PKC560": (
        "walks(E) hops with a probability proportional to E, which must be finite and not below 0 everywhere: walks(abs(theta)). With "
        "a number for E every weight that leads on is equally likely."
    ),
    "PKC561": "Walks cannot cross a convolution whose kernel is computed from parameters: store the kernel itself as the parameter.",
    "PKC562": (
        "A walk visits only what lies on a path from an input to an output along weights other than 0, and the target keeps more than "
        "that. The message says how many there are."
    ),
    "PKC563": (
        "The chance of a weight to be visited is proportional to its size, so the smallest ones take very many walks. A pass of walks "
        "is for low densities; of a scope other than global, every layer must be visited as often as it keeps."
    ),
    "PKC564": "No walk leads from an input to an output: some layer has no weight left, or its weights are all 0.",
    "PKC565": (
        "model() and noise() go through the input that data stands for. Where the model takes integers, noise() draws rows of its "
        "table of embeddings, all equally likely, and nothing can be computed with them before model() reads them."
    ),
    "PKC566": (
        "repeat averages over what is drawn: noise(), init, and dropout with mode = train. Where nothing is drawn, every repetition "
        "gives the same score. A warning."
    ),
    "PKC567": (
        "after(F, ...) evaluates the number F anew at the weights after training: F is loss, or made of loss and output. With batches "
        "= each, every step and F take a batch of their own, so there must be steps + 1 samples or more."
    ),
    "PKC569": "The steps of after(F, ...) left the finite numbers: the rate lr is too large for these weights and data.",
    "PKC601": "The installation lacks a folder that belongs to it. Reinstall it.",
    "PKC611": "A file of the language cannot be read: it is missing, a folder, or protected.",
    "PKC612": "A file of the language cannot be rewritten: it or its folder is protected, or the disk is full.",
    "PKC613": "A report cannot be written: its folder is missing or protected, or the disk is full.",
    "PKC620": "A folder or a file of a run cannot be written.",
    "PKC621": "Something that no run has written lies where the artifact would go. It is never overwritten.",
    "PKC622": (
        "What lies there was made by another recipe. A recipe is the model's source and weights, the resolved schedule, the "
        "data, the dtype, the device, the number of threads and the versions. The message names what differs."
    ),
    "PKC623": "Another process writes the same artifact right now. Its lock ends with it.",
    "PKC624": "The folder is no artifact: it has no manifest.json, which is written last.",
    "PKC625": "The artifact was written by a newer version, in a format that this one cannot know.",
    "PKC626": "Files of the artifact are missing, or are not those that were written: their hashes differ.",
    "PKC627": "The manifest.json of an artifact is not what the format says.",
    "PKC628": "The files of an artifact do not fit together, although each is as its manifest says.",
    "PKC629": "The model that an artifact is applied to has other parameters than the one that was pruned.",
    "PKC630": "A state_dict holds entries that are no tensors (get_extra_state), so that no artifact could restore it.",
    "PKC631": "A file for JSON cannot be written.",
    "PKC632": "A page or a plot needs a plotting library that is not installed. It is an extra: pip install 'pkcompiler[plot]'.",
    "PKC633": "Plots are written as png, svg or pdf.",
    "PKC634": "A page or a plot cannot be written: its folder is missing or protected, or the disk is full.",
    "PKC640": "A weights file is missing, damaged, or not one of .safetensors .pt .pth .bin.",
    "PKC641": (
        "The weights file holds pickled objects, and unpickling can run any code. They are never loaded; save "
        "model.state_dict() instead."
    ),
    "PKC642": (
        "The weights are wrapped in a checkpoint, or their names carry a prefix of the wrapper that they were saved from. "
        "The note holds a line that converts the file."
    ),
    "PKC643": "The weights file lacks tensors that the model has. Of a tied parameter, one of its names is enough.",
    "PKC644": "The weights file holds tensors that the model does not have.",
    "PKC645": "Tensors in the weights file differ in shape from those of the model.",
    "PKC660": "There is no such data set. Known are digits, mnist5k, a file.npz with x and y, and module:factory.",
    "PKC661": "The data set lies in a package that is not installed. The note holds the command.",
    "PKC662": "A data file or factory gives something else than x and y: plain arrays, a pair of tensors, or a Dataset.",
    "PKC663": "The samples are of a type or shape that cannot be used: one x per label, all alike, floats or token numbers.",
    "PKC664": "A class-balanced subset is drawn by integer class labels, one per sample; here there are none.",
    "PKC665": "A class has fewer samples than are asked for.",
    "PKC666": "Samples hold a NaN or an infinity; scores computed from them would mean nothing.",
    "PKC667": "Data takes the options per_class or count, and batch, each a positive whole number.",
}


def explain_code(code: str) -> str | None:
    """One paragraph on a code, or None where there is no such code."""
    text = CODES.get(code.upper())
    if text is None:
        return None
    return f"{code.upper()} ({GROUPS[code[3]]})\n{fill(text, 100, initial_indent='  ', subsequent_indent='  ')}\n"
