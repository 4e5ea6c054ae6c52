"""``pkc explain``: a pass or an analysis with its formulas, a word of the language or of reports, or an error code."""

from __future__ import annotations

from pkcompiler.codes import CODES, explain_code
from pkcompiler.diagnostics import PkcError, fail
from pkcompiler.lang import words
from pkcompiler.lang.ast import Analysis, Pass
from pkcompiler.lang.check.declare import article
from pkcompiler.lang.explain.formula import formula
from pkcompiler.lang.explain.formula_analysis import legend, line_formula, shown_kind
from pkcompiler.lang.explain.glossary import GLOSSARY, Term
from pkcompiler.lang.library import analysis_names, find_analysis, find_pass, is_path, library_names
from pkcompiler.lang.rows import Word, suggest
from pkcompiler.lang.syntax.format import print_expr

_KINDS = {
    "text": "a text in double quotes",
    "count": "a whole number",
    "rounds": "a whole number from 1",
    "seed": "a whole number of 64 bits",
    "fraction": "a part: 98% or 0.98",
    "factor": "a factor: 50x or 50",
    "bytes": "an amount: 4MB",
    "curve": "these, or an expression in k, n and rho that is proved to fall to rho:",
    "structure": "2:4 (at most two of every four inputs), or these:",
    "at": "one of these:",
    "rewind": "one of these:",
    "required": "effective_paths, and a whole number",
    "factors": "factors, separated by commas: 1, 10, 100",
    "fractions": "parts, separated by commas: 90%, 99%",
    "seeds": "whole numbers and ranges, separated by commas: 0..2, 7",
    "names": "names, and files in double quotes, separated by commas",
    "specs": 'specs in double quotes, separated by commas: "file.py", "file.py:name"',
    "globs": "globs in double quotes, separated by commas, and these words:",
    "data": 'these, "file.npz" or "module:factory":',
    "expression": "an expression",
    "score": "an expression with the axis [param]",
    "report": "an expression of any kind but an operator",
    "number": "an expression that is a number",
    "axis": "one of these:",
    "edge": "abs(theta), theta^2, theta or 1",
    "input": "these, or an expression with the axes of the input, such as mean(data):",
    "output": "these, or an expression with the axis [output]:",
    "gates": "these, or data^2:",
    "samples": "an expression with the axes [sample, input]",
}


def explain(word: str) -> str:
    """What a pass or an analysis (name, path or text), a word or an error code means.

    Raises PkcError (PKC122) for anything else.
    """
    code = explain_code(word)
    if code is not None:
        return code
    hyphened = word.replace("_", "-")
    parts = [_explain_row(row) for row in words.WORDS if row.name.replace("_", "-") == hyphened]
    parts += [_explain_term(term) for term in GLOSSARY if term.name.replace("_", "-").lower() == hyphened.lower()]
    if "{" in word or is_path(word):
        parts.insert(0, _explain_declaration(word))
    if hyphened in analysis_names():
        parts.insert(0, explain_analysis(find_analysis(hyphened)))
    if hyphened in library_names():
        parts.insert(0, explain_pass(find_pass(hyphened)))
    if parts:
        return "\n".join(parts)
    declared = [*library_names(), *analysis_names()]
    known = [*declared, *dict.fromkeys(w.name for w in words.WORDS), *(t.name for t in GLOSSARY), *CODES]
    close = suggest(word, known)
    note = (
        f"did you mean 'pkc explain {close}'?"
        if close
        else "'pkc passes' lists the passes; 'pkc explain pass' lists the settings of a pass"
    )
    raise fail("PKC122", f"'{word}' is neither a pass, nor a word of the language, nor an error code", note)


def _explain_declaration(given: str) -> str:
    """The pass, else the analysis, that a text or a file declares."""
    try:
        return explain_pass(find_pass(given))
    except PkcError as error:
        if error.diagnostics[0].code not in ("PKC119", "PKC117"):
            raise
        try:
            return explain_analysis(find_analysis(given))
        except PkcError:
            raise error from None


def explain_pass(found: Pass) -> str:
    """Source, what it reads, its settings with the defaults, its formula, its text."""
    head = [f"{found.name}: a pass" + (f", {found.doc}" if found.doc else "")]
    head += [f"  source  {found.source or 'not given'}", f"  reads   {reads(found)}"]
    settings = [("rounds", str(found.rounds)), ("curve", found.curve), ("scope", found.scope), ("order", found.order)]
    settings += [("among", found.among), ("mode", found.mode)]
    settings += [("repeat", str(found.repeat))] if found.repeat > 1 else []
    settings += [("init", print_expr(found.init))] if found.init is not None else []
    rows = [f"  {name:<7} {value}" + ("" if name in found.given else "  (default)") for name, value in settings]
    lines = formula(found).split("\n")
    shown = ["", f"  {lines[0]}", *(f"    {line}" for line in lines[1:]), ""]
    text = ["  " + line for line in found.text.rstrip("\n").split("\n")]
    return "\n".join([*head, *rows, *shown, *text]) + "\n"


def explain_analysis(found: Analysis) -> str:
    """Source, what it reads, what each line shows with its formula, the text."""
    head = [f"{found.name}: an analysis" + (f", {found.doc}" if found.doc else "")]
    head += [f"  source  {found.source or 'not given'}", f"  reads   {reads(found)}", ""]
    for line in found.reports:
        head += [f"  {line.label}: {shown_kind(line)}", f"    {line_formula(line)}"]
    below = legend(found)
    head += ["", *(f"  {line}" for line in below)] if below else []
    return "\n".join([*head, "", *("  " + line for line in found.text.rstrip("\n").split("\n"))]) + "\n"


def reads(found: Pass | Analysis) -> str:
    """``weights``, or ``weights and data``; ``model`` where weights alone are not enough."""
    if isinstance(found, Analysis) and found.needs_model and not found.needs_data:
        return "model"
    weights = "fresh weights" if isinstance(found, Pass) and found.init is not None else "weights"
    return f"{weights} and data" if found.needs_data else weights


def _explain_term(term: Term) -> str:
    return f"{term.name}: a word of reports\n  {term.doc}\n  defined in docs/theory.md, section {term.section}\n"


def _explain_row(row: Word) -> str:
    lines = [f"{row.name}: {_what(row)}", f"  {row.doc}"]
    if not row.due:
        lines.append("  known, but not in this version")
    values = words.rows("value", row.name) if row.role in ("setting", "argument") else ()
    if row.role in ("setting", "argument", "labelled"):
        lines.append(f"  takes    {_KINDS.get(row.kind, 'one of these words:' if values else 'a value')}")
    lines += [f"             {_entry(v)}" for v in values]
    if row.default:
        lines.append(f"  default  {row.default}")
    if row.role == "name":
        axes = row.kind.replace(" ", ", ")
        lines.append(f"  kind     {f'[{axes}]' if axes else 'a number'}")
    if row.line:
        lines.append(f"  example  {row.line}")
    return "\n".join([*lines, *_contents(row)]) + "\n"


def _contents(row: Word) -> list[str]:
    """The settings of a block, the arguments of a function."""
    if row.role == "block":
        inner = [w for role in ("setting", "labelled", "block") for w in words.rows(role, row.name) if row.name in w.of]
        return ["  holds"] + [f"    {_entry(w)}" for w in inner] if inner else []
    if row.role == "function":
        inner = [w for w in words.rows("argument", row.name) if row.name in w.of]
        return (
            ["  arguments"] + [f"    {_entry(w)}" + (f" (default {w.default})" if w.default else "") for w in inner]
            if inner
            else []
        )
    return []


def _entry(row: Word) -> str:
    return f"{row.name:<14} {row.doc}" + ("" if row.due else " (not in this version)")


def _what(row: Word) -> str:
    places = " and ".join(article(p) for p in row.of)
    match row.role:
        case "block":
            return f"a block of {places}"
        case "setting" | "labelled":
            return f"a setting of {places}"
        case "argument":
            return f"an argument of {', '.join(row.of)}()"
        case "value":
            return f"a value of {', '.join(row.of)}"
        case "name":
            return "a reserved name"
    return "a function"
