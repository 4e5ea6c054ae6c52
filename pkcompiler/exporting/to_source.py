"""``source``: the network as one Python module that needs torch and safetensors alone, and its weights beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pkcompiler.diagnostics import fail
from pkcompiler.exporting.baked import Baked, fold_computed
from pkcompiler.exporting.compared import Given, compare
from pkcompiler.exporting.content import Content, as_target
from pkcompiler.exporting.source_forward import HELPERS, TAKEN, Forward, forward_of
from pkcompiler.exporting.source_tree import Tree, constructor, tree_of
from pkcompiler.lowering import lower
from pkcompiler.lowering.assemble import lower_exported
from pkcompiler.lowering.call import check_fixed, fetch
from pkcompiler.lowering.modules import Lowered, ModePair
from pkcompiler.lowering.trace import attribute_names
from pkcompiler.lowering.unweave import unweave
from pkcompiler.version import __version__

WEIGHTS = ".safetensors"
RUN = """
import importlib.util, sys
sys.path[:] = sys.argv[4:]
import torch
spec = importlib.util.spec_from_file_location("network", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
network = module.load()
leaves = torch.utils._pytree.tree_leaves
calls = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    found = [[t for t in leaves(network(*args, **kwargs)) if isinstance(t, torch.Tensor)] for args, kwargs in calls]
assert "pkcompiler" not in sys.modules
torch.save(found, sys.argv[3])
"""
"""What runs the written module, in a process of its own: it must not need this one, nor change anything in it."""
PARTS = '''class Parts(nn.Module):
    """Modules and tensors under their names; the forward of the network says what they compute."""

    def __init__(self, /, **members):
        super().__init__()
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member) if name.isidentifier() else self.add_module(name, member)'''


def to_source(baked: Baked, check: bool, stem: str) -> Content:
    """The text and the weights. Raises ``PKC653`` for a graph that cannot be written, ``PKC651`` for another function."""
    fold_computed(baked.model)
    name = _class_name(baked.model)
    network, given = _graphs(baked)
    programs = _programs(network)
    read = {n for program in programs for n in attribute_names(program.graph)}
    called = {str(node.target) for program in programs for node in program.graph.nodes if node.op == "call_module"}
    tree = tree_of(programs[0], called, read - called)
    fixed = _fixed(network)
    recorded = isinstance(network, ModePair) and network.recorded is not None
    forwards = [forward_of(program.graph, tree.places, fixed, recorded=recorded) for program in programs]
    text = _module(name, stem, tree, list(dict.fromkeys(forwards)))
    state = _state(programs[0], tree)
    files = {"": text.encode(), WEIGHTS: save(state, metadata={"format": "pt"})}
    static = network.static_batch if isinstance(network, ModePair) else None
    worst = _checked(files, baked, given, static is None) if check else None
    constant = {*fixed, *(node.args[2] for node in programs[0].graph.nodes if node.target is check_fixed)}
    inputs = tuple(str(node.target) for node in programs[0].graph.find_nodes(op="placeholder") if node.target not in constant)
    return Content(files, inputs, (), static, worst)


def _class_name(model: nn.Module) -> str:
    name = type(model).__name__
    taken = {*TAKEN, *dir(nn), "Lowered", "ModePair", "GraphModule"}
    return "Network" if name in taken or not name.isascii() else name


def _graphs(baked: Baked) -> tuple[Lowered | ModePair, Given]:
    """The model as graphs of calls of modules that can be written; recorded by ``torch.export`` where symbolic tracing cannot."""
    example, network = _Example(*baked.given), baked.model
    own = isinstance(network, Lowered | ModePair)
    lowered = network if isinstance(network, Lowered | ModePair) else lower(network, {}, example)
    if any(constructor(module) is None for module in _called(lowered)):
        lowered, own = lower_exported(network, example), False
    for program in _programs(lowered):
        unweave(program)
    if own or isinstance(lowered, Lowered) or lowered.recorded is None:
        return lowered, baked.given
    return lowered, lowered.recorded.arranged(*baked.given)


def _programs(network: Lowered | ModePair) -> list[Lowered]:
    return [network] if isinstance(network, Lowered) else list(network.programs)


class _Example:
    """Positional and keyword inputs together."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs


def _called(network: Lowered | ModePair) -> list[nn.Module]:
    return [
        program.get_submodule(str(n.target)) for program in _programs(network) for n in program.graph.nodes if n.op == "call_module"
    ]


def _fixed(network: Lowered | ModePair) -> dict[str, Any]:
    """The arguments of a recorded call that are no tensors, by the names of the graph's inputs."""
    if isinstance(network, Lowered) or network.recorded is None:
        return {}
    return {name: value for name, value in network.recorded.values.items() if isinstance(value, bool | int | float | str | None)}


def _state(network: nn.Module, tree: Tree) -> dict[str, Tensor]:
    """The tensors that the module holds, each once."""
    seen: set[int] = set()
    found = {}
    for name in tree.places:
        value = fetch(network, name)
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach().cpu().contiguous().clone()
    return found


# the text ----------------------------------------------------------------------------------------------------------------


def _module(name: str, stem: str, tree: Tree, forwards: Sequence[Forward]) -> str:
    """The whole file."""
    body = "\n".join(line for f in forwards for line in f.lines)
    used = sorted({helper for f in forwards for helper in f.helpers})
    parts = [f'"""{name}, as pkcompiler {__version__} wrote it. It runs and trains with torch and safetensors alone:\n']
    parts[0] += (
        f"\n    from {stem} import load\n\n    network = load()  # with the weights of {stem}{WEIGHTS}, in evaluation mode\n"
    )
    parts[0] += '"""\n'
    parts.append(_imports(body))
    parts += [f"{HELPERS[helper]}\n" for helper in used]
    if any("Parts(" in line for line in tree.lines):
        parts.append(PARTS + "\n")
    parts.append(_class(name, tree, forwards))
    parts.append(_load(name))
    first, imports, *rest = parts
    return "\n".join([first, imports]) + "\n\n" + "\n\n".join(rest)


def _imports(body: str) -> str:
    plain = [f"import {module}\n" for module in ("math", "operator") if re.search(rf"\b{module}\.", body)]
    functional = "from torch.nn import functional as F\n" if re.search(r"\bF\.", body) else ""
    head = "".join([*plain, "from pathlib import Path\n"])
    aten = "\naten = torch.ops.aten\n" if re.search(r"\baten\.", body) else ""
    return f"{head}\nimport torch\nfrom safetensors.torch import load_model\nfrom torch import nn\n{functional}{aten}"


def _class(name: str, tree: Tree, forwards: Sequence[Forward]) -> str:
    lines = [f"class {name}({tree.base}):", "    def __init__(self):", *(f"        {line}" for line in tree.lines), ""]
    if len(forwards) == 1:
        return "\n".join(lines + _method("forward", forwards[0]))
    evaluation, training = forwards
    given = ", ".join(p.partition("=")[0] for p in evaluation.parameters)
    lines += [f"    def forward({', '.join(['self', *evaluation.parameters])}):"]
    lines += [f"        return self.in_training({given}) if self.training else self.in_evaluation({given})", ""]
    return "\n".join(lines + _method("in_evaluation", evaluation) + _method("in_training", training))


def _method(name: str, forward: Forward) -> list[str]:
    head = f"    def {name}({', '.join(['self', *forward.parameters])}):"
    return [head, *(f"        {line}".rstrip() for line in forward.lines), ""]


def _load(name: str) -> str:
    return f'''def load(file=Path(__file__).with_suffix("{WEIGHTS}")):
    """The network with the weights of a file, in evaluation mode; .train() sets the other."""
    network = {name}()
    load_model(network, str(file))
    return network.eval()
'''


# the check ---------------------------------------------------------------------------------------------------------------


def _checked(files: Mapping[str, bytes], baked: Baked, given: Given, free: bool) -> float:
    """The largest difference between the model and the written module, which runs in a process of its own."""
    return compare(baked.model, lambda calls: _run(files, calls), given, free=free, what="the written module")


def _run(files: Mapping[str, bytes], calls: Sequence[Any]) -> list[list[Tensor]]:
    with TemporaryDirectory() as folder:
        module, given, outputs = (Path(folder) / name for name in ("network.py", "given.pt", "outputs.pt"))
        for suffix, data in files.items():
            module.with_suffix(suffix or module.suffix).write_bytes(data)
        torch.save(calls, given)
        command = [sys.executable, "-I", "-c", RUN, str(module), str(given), str(outputs), *sys.path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            note = f"write it with {as_target('pt2', 'onnx')}, and report this"
            raise fail("PKC651", f"the written module fails: {last}: nothing was written", note)
        result: list[list[Tensor]] = torch.load(outputs, weights_only=True)
        return result
