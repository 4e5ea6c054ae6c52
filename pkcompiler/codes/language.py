"""Error codes of syntax and declarations."""

from __future__ import annotations

CODES: dict[str, str] = {
    "PKC001": (
        "The text does not have one of the three shapes: setting = value, keyword LABEL = value, kind NAME { ... }. The carets "
        "stand at the first piece that does not fit, and the label says what could have stood there. Reading goes on at the "
        "next setting, so one mistake does not hide the others."
    ),
    "PKC002": (
        "A character that the language does not use, a name with dots outside of double quotes, or a backslash in a text that "
        "stands before something else than a double quote or a backslash. Outside of texts there are names, numbers, # comments "
        "and = , ( ) { } + - * / ^ .. : only."
    ),
    "PKC003": "A text begins with a double quote and must end with one on the same line.",
    "PKC004": "A block is opened with { and the file ends before its }.",
    "PKC005": (
        "Parentheses, blocks or operations are nested more than 100 deep, the names of let written out. Name inner parts with let, "
        "and build fewer names on names."
    ),
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
    "PKC101": (
        "A block begins with a word that is none: a file declares pass, analysis, schedule and study, a schedule holds prune."
    ),
    "PKC102": "A setting that this block does not have. Either it is misspelled, or it belongs in another block.",
    "PKC103": "Something is called that is not a function. 'pkc explain FUNCTION' explains one of them.",
    "PKC104": (
        "A name that is neither a let above the line nor one of theta, mask, prunable, data, loss, losses, samples, output. "
        "Names may contain hyphens, so a minus needs spaces around it. A let is known from its own line on."
    ),
    "PKC105": "The value is not one of those that this setting or argument takes. The label lists them.",
    "PKC106": (
        "A number out of its range, without its unit, or with one that does not belong there. Parts are written 98% or 0.98, "
        "never 98; a compression 50x or 50; rounds and seeds are whole numbers."
    ),
    "PKC107": (
        "A setting, an argument or a name is given twice, or a let takes a word of the language. Nothing is overwritten silently."
    ),
    "PKC108": (
        "A declaration lacks what it cannot do without: a pass its score, an analysis at least one report, a schedule at least "
        "one prune."
    ),
    "PKC109": (
        "The word is spelled correctly and belongs to the language, but this version does not carry it out yet. Leave it out, "
        "or use a later version."
    ),
    "PKC110": "A function is given too many, too few or unknown arguments. Reductions name their axis: sum(E, over = sample).",
    "PKC111": (
        "Kinds do not fit. The kind of an expression is its set of axes out of sample, output, input, param: theta and mask "
        "have [param], data [sample, input], output [sample, output], a number none. A number combines with anything; else the "
        "axes must be equal, for nothing broadcasts. A score has [param]. An operator (gram, ntk) is read by functions such as "
        "trace, never computed with."
    ),
    "PKC112": (
        "grad(F, u) needs a number F and, as u, exactly theta, mask, or the edge of F (after substitution of let). By theta it "
        "is the derivative by the effective weight theta * mask; grad(F, mask) = theta * grad(F, theta); grad(F, theta^2) is "
        "dF/dw of a functional whose edge is w = theta^2. Of several path functionals with different edges only theta and mask "
        "are left. F may hold derivatives, but no derivatives of derivatives."
    ),
    "PKC113": (
        "A stage has exactly one target: density (what is kept), sparsity (what is removed), compression (weights per kept "
        "weight), flops (the part of the multiply-adds that is left) or size (bytes of the saved weights)."
    ),
    "PKC114": (
        "Stages run in order, each from the mask that the last one left, and a mask only shrinks. So a target may not be looser"
        " than the one that is already reached."
    ),
    "PKC115": (
        "A pass or an analysis does not say where it was published. In the library that is an error; in a file of your own it "
        "is a warning."
    ),
    "PKC116": "A let that nothing reads. It changes nothing; perhaps a line below was meant to use it. A warning.",
    "PKC117": (
        "There is no such pass, analysis or schedule. A bare name is looked up in the library, anything with / or .pkc is a "
        "file, and file.pkc:name picks one of several."
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
        "A stage's pass reads data, the loss or the output, and the schedule names no data. The data can still be given on the "
        "command line or by the caller. A warning."
    ),
    "PKC122": "'pkc explain' knows passes, analyses, words of the language, words of reports and error codes.",
    "PKC123": (
        "Operators, what reads them, predictions and collapse() belong in an analysis. A pass scores parameters by path "
        "functionals and the loss."
    ),
    "PKC124": 'collapse(PASS) takes the name of a pass, collapse(synflow), or a file in double quotes, collapse("./mine.pkc").',
}
