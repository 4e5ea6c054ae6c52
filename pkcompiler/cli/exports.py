"""``pkc export`` and ``pkc import``: to and from what does not know pkcompiler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkcompiler.cli.model import built_options, model_options, opened
from pkcompiler.cli.output import deliver_json, put

if TYPE_CHECKING:
    from pkcompiler.exporting.entry import Exported

TARGETS = ("onnx", "pt2", "source", "safetensors", "torch-prune")


@click.command()
@click.argument("artifact", metavar="ARTIFACT")
@built_options
@click.option("--to", type=click.Choice(TARGETS), required=True, help="What is written.")
@click.option("-o", "--out", metavar="FILE", required=True, help="The file: .onnx, .pt2, .py, .safetensors, or .pt of torch-prune.")
@click.option("--compact", is_flag=True, help="Without the units that the masks have left without effect: smaller and faster.")
@click.option("--no-check", is_flag=True, help="Do not compare the file with the model before it is written.")
@click.option("--force", is_flag=True, help="Replace the file that is there.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write what was written as JSON (- is stdout, in place of the table).")
def export(
    artifact: str, to: str, out: str, *, compact: bool, no_check: bool, force: bool, json_file: str | None, **options: Any
) -> None:
    """Write a pruned model as a file that works without pkcompiler.

    Pruned weights are zeros in it, and there are no masks (but for torch-prune). The weights are those of the artifact;
    --weights FILE gives others, such as those of the network that was trained. An ONNX file takes the extra: pip install
    'pkcompiler[export]'. It, pt2 and source are compared with the model at random inputs before they are written.
    """
    from pkcompiler.cli.artifacts import loaded
    from pkcompiler.driver.exports import export_to
    from pkcompiler.driver.open import quiet
    from pkcompiler.exporting.entry import prepare

    prepare(Path(out), to, force=force)
    found = loaded(artifact)
    model = opened(**options, say=quiet)
    result, report = export_to(found, model, Path(out), to=to, smaller=compact, check=not no_check, force=force)
    left = {} if report is None else {"parameters": report.parameters, "multiply-adds": report.multiply_adds}
    if deliver_json({**result.to_json(), "compact": left or None}, json_file):
        _print(result, left)


def _print(result: Exported, left: Mapping[str, tuple[int, int]]) -> None:
    lines = [*((str(path), f"{size:,} bytes") for path, size in result.files.items())]
    lines += [(name, f"{small:,} of {dense:,}") for name, (dense, small) in left.items()]
    if result.inputs:
        lines.append(("inputs", ", ".join(result.inputs)))
    if result.outputs:
        lines.append(("outputs", ", ".join(result.outputs)))
    if result.inputs:
        lines.append(("batch", "any" if result.batch is None else f"{result.batch}, the model fixes it"))
    if result.difference is not None:
        lines.append(("checked", f"differs from the model by {result.difference:.1e} of its largest output, at most"))
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        put(f"{name:<{width}}  {text}")


@click.command("import")
@model_options
@click.option("--zeros", is_flag=True, help="Take matrices that hold zeros, and have no mask, as pruned where they are zero.")
@click.option("-o", "--out", metavar="DIR", required=True, help="The artifact.")
@click.option("--json", "json_file", metavar="FILE|-", help="Write it as JSON (- is stdout, in place of the text).")
def import_(zeros: bool, out: str, json_file: str | None, weights: str | None, **options: Any) -> None:
    """Make an artifact of a network that others have pruned.

    The masks are those of torch.nn.utils.prune, or tensors weight_mask of 0 and 1 beside weight, in the file of --weights (or in
    the model that MODEL builds). MODEL builds the network as it is without masks.
    """
    from pkcompiler.cli.artifacts import loaded
    from pkcompiler.cli.summary import result, result_json
    from pkcompiler.driver.imports import import_to
    from pkcompiler.driver.open import quiet

    network = opened(**options, say=quiet)
    found = loaded(str(import_to(network, None if weights is None else Path(weights), Path(out), zeros=zeros)))
    if deliver_json(result_json(found), json_file):
        result(found, network.loaded.spec)
