"""README.txt of an artifact: what its files are, and how to use them without this package."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import indent
from typing import TYPE_CHECKING, Any

from pkcompiler.artifact.manifest import README_BEGINS
from pkcompiler.pruning.provenance import Provenance
from pkcompiler.version import __version__

if TYPE_CHECKING:
    from pkcompiler.pruning.state import Pruned

WITHOUT_US = """\
import torch
from safetensors.torch import load_file

model.load_state_dict(load_file("weights.safetensors"))
for name, mask in load_file("masks.safetensors").items():
    weight = model.get_parameter(name)
    weight.data.masked_fill_(~mask, 0)
    weight.register_hook(lambda gradient, mask=mask: torch.where(mask, gradient, 0))
"""

SPARSE_LINE = (
    "sparse.safetensors     of every pruned parameter its kept values and one bit per entry: what a target in bytes counts\n"
)
CONSTANTS_LINE = "constants.safetensors  tensors of the graph that no state_dict holds\n"


def readme(pruned: Pruned, origin: Provenance, constants: bool) -> str:
    """The text. ``constants``: whether there is such a file."""
    model = origin.model
    made = f"{model['class']}" + (f" ({model['spec']})" if model.get("spec") else "")
    passes = ", ".join(dict.fromkeys(p.name for p in pruned.plan.passes)) or "others: its masks were imported"
    return f"""\
{README_BEGINS}{made}, pruned by {passes}.
{pruned.kept:,} of {pruned.total:,} weights are kept ({pruned.density:.4%}). Written by pkcompiler {__version__}.
{_arbitrary(pruned)}
masks.safetensors      bool tensors by parameter name, True = kept
weights.safetensors    the state_dict that was scored, dense and unmasked: train from these
{SPARSE_LINE if pruned.packed else ""}{CONSTANTS_LINE if constants else ""}\
schedule.pkc           what was done, with the text of each pass
graph.pkir             the path graph of the model, printed
report.json            what the masks leave of it
manifest.json          versions, model, inputs, data, recipe, the sha256 of every file

With torch and safetensors alone, in this folder, given your `model`:

{indent(WITHOUT_US, "    ")}
Make the optimizer after that, and train as always.

With pkcompiler:

{indent(usage(model, "."), "    ")}"""


def _arbitrary(pruned: Pruned) -> str:
    return f"{pruned.by_position:,} of them have score 0: their position alone chose them.\n" if pruned.by_position else ""


def usage(model: Mapping[str, Any], folder: str) -> str:
    """Three lines of Python that use the artifact; they run where the model came from a file or a module."""
    imports, build = _construction(model)
    use = f"network = pkcompiler.load({folder!r}).lower(model)  # trains masked; .apply(model) keeps your own class"
    return f"{imports}\n{build}\n{use}\n"


def _construction(model: Mapping[str, Any]) -> tuple[str, str]:
    spec, factory = model.get("spec"), model.get("factory")
    if not spec or not factory:
        return "import pkcompiler", f"model = ...  # your {model['class']}"
    arguments = ", ".join(f"{key}={value}" for key, value in model.get("args", {}).items())
    call = "" if model.get("built") else f"({arguments})"
    place = str(spec).removesuffix(f":{factory}")
    if place.endswith(".py"):
        return "import pkcompiler, runpy", f"model = runpy.run_path({place!r})[{factory!r}]{call}"
    return "import pkcompiler", f"from {place} import {factory}; model = {factory}{call}"
