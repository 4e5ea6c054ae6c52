"""Error codes of files."""

from __future__ import annotations

CODES: dict[str, str] = {
    "PKC601": "The installation lacks a folder that belongs to it. Reinstall it.",
    "PKC611": "A file of the language cannot be read: it is missing, a folder, or protected.",
    "PKC612": "A file of the language cannot be rewritten: it or its folder is protected, or the disk is full.",
    "PKC613": "A report cannot be written: its folder is missing or protected, or the disk is full.",
    "PKC614": "The path graph of an artifact of format version 1 says no gains of its gates, which path functionals need.",
    "PKC620": "A folder or a file of a run cannot be written, or what lies where the artifact would go cannot be read or moved.",
    "PKC621": (
        "Something that no run has written lies where the artifact would go, or where its unfinished run works (DIR.partial). It "
        "is never overwritten or deleted, not by --force either: of an artifact that is replaced only its own files go."
    ),
    "PKC622": (
        "What lies there was made by another recipe. A recipe is the model's source and weights, the resolved schedule, the "
        "data, the dtype, the device, the number of threads and the versions. The message names what differs."
    ),
    "PKC623": "Another process writes the same artifact right now. Its lock ends with it.",
    "PKC624": "The folder is no artifact (it has no manifest.json, which is written last), or it cannot be read.",
    "PKC625": "The artifact was written by a newer version, in a format that this one cannot know.",
    "PKC626": (
        "Files of the artifact are missing, are symbolic links (none is followed), or are not those that were written: their "
        "hashes differ."
    ),
    "PKC627": (
        "The manifest.json of an artifact is not what the format says, contradicts itself, or was changed after it was written: "
        "it holds its own hash."
    ),
    "PKC628": (
        "The files of an artifact do not hold what they should, or do not fit together, although each is as its manifest says: "
        "masks are boolean, weights finite and real, and weights, graph and schedule those that the recipe names."
    ),
    "PKC629": "The model that an artifact is applied to has other parameters than the one that was pruned.",
    "PKC630": "A state_dict holds entries that are no tensors (get_extra_state), so that no artifact could restore it.",
    "PKC631": "A file for JSON cannot be written.",
    "PKC632": "A page or a plot needs a plotting library that is not installed. It is an extra: pip install 'pkcompiler[plot]'.",
    "PKC633": "Plots are written as png, svg or pdf.",
    "PKC634": "A page or a plot cannot be written: its folder is missing or protected, or the disk is full.",
    "PKC635": "A result cannot be written to stdout: the disk behind it is full, or it is closed.",
    "PKC640": "A weights file is missing, damaged, or not one of .safetensors .pt .pth .bin.",
    "PKC641": (
        "The weights file holds pickled objects, and unpickling can run any code. They are never loaded; save "
        "model.state_dict() instead."
    ),
    "PKC642": (
        "The weights are wrapped in a checkpoint, or their names carry a prefix of the wrapper that they were saved from. The "
        "note holds a line that converts the file."
    ),
    "PKC643": "The weights file lacks tensors that the model has. Of a tied parameter, one of its names is enough.",
    "PKC644": "The weights file holds tensors that the model does not have.",
    "PKC645": "Tensors in the weights file differ in shape from those of the model.",
    "PKC650": (
        "A model cannot be written in the form that was asked for: torch.export does not record it (it branches on the values of "
        "tensors), ONNX has no operator for one of its own, or it is larger than one ONNX file may be."
    ),
    "PKC651": (
        "What would have been written computes something else than the model, at the example or at random inputs, or fails there. "
        "Nothing is written. Most often the model draws random numbers in evaluation mode, or keeps a state between calls."
    ),
    "PKC652": "ONNX files need packages that are not installed. They are an extra: pip install 'pkcompiler[export]'.",
    "PKC653": "The graph of a model holds something of its own, a class or a function, that Python without the model cannot say.",
    "PKC654": "Models are exported to onnx, pt2, source, safetensors or torch-prune.",
    "PKC655": "The file of an export cannot be written: its name does not fit, its folder is missing, or something is there.",
    "PKC660": "There is no such data set. Known are digits, mnist5k, a file.npz with x and y, and module:factory.",
    "PKC661": "The data set lies in a package that is not installed. The note holds the command.",
    "PKC662": "A data file or factory gives something else than x and y: plain arrays, a pair of tensors, or a Dataset.",
    "PKC663": "The samples are of a type or shape that cannot be used: one x per label, all alike, floats or token numbers.",
    "PKC664": "A class-balanced subset is drawn by integer class labels, one per sample; here there are none.",
    "PKC665": "A class has fewer samples than are asked for.",
    "PKC666": "Samples hold a NaN or an infinity; scores computed from them would mean nothing.",
    "PKC667": "Data takes the options per_class or count, and batch, each a positive whole number.",
}
