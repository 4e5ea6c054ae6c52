"""Error codes of models, operators and IR invariants."""

from __future__ import annotations

CODES: dict[str, str] = {
    "PKC201": (
        "The lift met an operator that it cannot give a meaning to, and it never guesses. All such operators are reported at "
        "once. If the operator acts on every entry alone, --gate OP reads it as a gate; else give it a meaning with @path_op in"
        " a file of yours and load it with --plugin my_ops.py (docs/own-operator.md). What weights are computed by is a closed "
        "list, OPERATORS in pkcompiler/ir/computed.py; no entry is asked there."
    ),
    "PKC202": (
        "Every use of every parameter must be understood, or scores would be silently wrong. The message names the first use "
        "that was not; the operator there needs a meaning: --plugin my_ops.py."
    ),
    "PKC203": "The model cannot be called with these inputs. Give others: --input 1x3x32x32, or example_inputs() in its file.",
    "PKC204": "Path analysis follows one floating-point output. Choose it by name or index with --output.",
    "PKC205": (
        "torch.export cannot trace the model, or the model branches on the values of its tensors and meets data that take "
        "another branch than the execution that was recorded."
    ),
    "PKC206": "Dimension 0 of every input is the batch. A dimension grows with the batch in another way than as a multiple of it.",
    "PKC207": "A torch.nn.Module was expected, not a class, a function, a state dict or a path graph.",
    "PKC208": (
        "Logarithms, square roots, 1/x and norms have no slope at 0. They are recorded at the data as factors, and paths do not"
        " cross them. Here nothing else leads from the inputs to the output, so that no path is left. Analyse what stands "
        "before."
    ),
    "PKC209": (
        "A parameter is complex. The weights of paths are real numbers; store real and imaginary part as parameters of their own. "
        "Complex buffers and constants are kept."
    ),
    "PKC210": "An operator is declared a gate (--gate) and is read as none: the model does not call it, or the table knows it.",
    "PKC211": (
        "An argument of a function of Python is of another type than the function takes: a text for a number, a number for a "
        "function. A NaN is no number; True is no whole number, nor is what 64 bits do not hold. Numbers of numpy are numbers."
    ),
    "PKC212": (
        "Parameters or buffers have no values yet: their module is lazy and has not been called, or they are on the meta device. "
        "Nothing can be computed from them."
    ),
    "PKC213": (
        "Analyses work on a copy of the model, made by copy.deepcopy. This model cannot be copied (it holds a lock, an open file "
        "or a generator), or its copy lacks what it holds, so that figures of the copy would not be those of the model."
    ),
    "PKC214": (
        "Analyses run on a copy of the model in float64 (or float32, where that is asked for). The model runs in its own "
        "precision, and this copy does not: its code names a dtype, or holds tensors where they are not found and converted."
    ),
    "PKC215": (
        "@path_op registers an entry of an operator that no model can call, or that is read without asking the table: what acts "
        "on each entry alone is a gate already, norms and logarithms are recorded at the data, and torch writes some operators as "
        "others. The entry would be ignored. An operator of your own, torch.library.custom_op, always asks (docs/own-operator.md)."
    ),
    "PKC240": (
        "A model (or data factory) is named by path/file.py, path/file.py:name or package.module:name. Dimension 0 of its "
        "inputs is the batch."
    ),
    "PKC241": "Arguments for the factory are given as --arg key=value, each once. The value is a Python literal (true, false and "
    "none in any case), else it is text; a word in quotes is text: --arg 'act=\"none\"'.",
    "PKC242": "There is no such file, folder or module. A dotted module is looked for in the current folder, too.",
    "PKC243": (
        "The user's own code raised an exception while it was imported or called. The carets stand at the innermost line of the"
        " user's file that led to it."
    ),
    "PKC244": "The given arguments do not fit the signature of what is called, or are given to a model that is built already.",
    "PKC245": (
        "Without :name, 'model' is meant, else the only nn.Module instance, function or nn.Module subclass that the file itself"
        " defines and that can be called with the given arguments. Here there is none, or there are several."
    ),
    "PKC246": "The file or module has no such name.",
    "PKC247": "What the spec names, or what its factory returned, is not a torch.nn.Module.",
    "PKC248": "The file, or forward, sets torch's default device for the whole process. --device moves the model instead.",
    "PKC250": (
        "An input is given as [NAME=][DTYPE:]SHAPE, batch first: 1x3x32x32, int64:1x128, mask=bool:1x16. The dtype is float32 "
        "by default."
    ),
    "PKC251": (
        "Neither --input nor a function example_inputs() in the model's file says what the model takes. The notes give both, "
        "with a shape guessed from the first layer."
    ),
    "PKC252": "example_inputs() returns a tensor, a tuple of tensors (positional), or a dict of tensors (keywords).",
    "PKC270": (
        "A lowered network is a graph, which would lose hooks of the model, of its modules or of its parameters. Hooks of "
        "torch's own weight_norm and spectral_norm are kept. apply_masks keeps the class with all its hooks, also those of "
        "fully_shard and DistributedDataParallel."
    ),
    "PKC271": "The model overrides a method that a lowered graph would not run, such as train. apply_masks keeps the class.",
    "PKC272": "The model cannot be traced symbolically. It is recorded on an example then: lower(model, masks, example_inputs).",
    "PKC273": (
        "The model can be neither traced nor exported: its forward branches on data, or draws random numbers outside of torch. "
        "apply_masks keeps the class."
    ),
    "PKC274": (
        "A lowered network holds the parameters, buffers and modules of the model under their names, and a name at the root is one "
        "that it has itself, such as graph, code or masks. Names within submodules are free."
    ),
    "PKC275": (
        "A lowered network is not pickled, since reading it back can silently change its operators. Save its state_dict, and "
        "lower again after loading."
    ),
    "PKC276": "An exported network was called with other sizes than it was recorded for. Dimension 0 may vary, the rest may not.",
    "PKC277": "The exported graph names its floating type, so .half() and the like would mix types. Change the type, then lower.",
    "PKC278": (
        "A lowered network was called with an argument that it was not recorded with. What the example leaves out stays at its "
        "default; lower(model, pruned) takes the inputs that the model was pruned with."
    ),
    "PKC279": (
        "The forward changes state that a lowered network would not: an attribute that is no buffer (a counter, a list), a masked "
        "parameter, a buffer that gets another shape or is one tensor with another, .data of a tensor, or, where it shows in the "
        "output, what a class, a global name or an enclosing function holds; or the graph has other outputs or buffers than the "
        "model in three calls at the example. Buffers are kept (register_buffer); apply_masks keeps the class. "
        "A constant that the first call fills is no change after a call: model(x), then lower."
    ),
    "PKC280": (
        "A compact network is made by running the recorded graph over what the masks have left of every tensor. It is refused "
        "where an operation writes in place to what has other units, or where its result is not the masked network's."
    ),
    "PKC281": (
        "shrink takes the names and shapes of the dense model's state_dict, expand those of the compact network's. "
        "Compact.kept lists the names."
    ),
    "PKC282": (
        "The state of an optimizer is translated where its tensors have the shape of their parameter (SGD, Adam and their like), "
        "by the names of the parameters in the optimizer's order."
    ),
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
    "PKC314": (
        "A computed weight is made of declared parameters, buffers and constants by calls of a closed list of operators that read "
        "no data. Its text is read, never run as a program; anything else in it is refused."
    ),
}
