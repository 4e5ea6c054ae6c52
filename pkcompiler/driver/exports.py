"""Export: an artifact and an opened model -> a file that works without pkcompiler."""

from __future__ import annotations

from pathlib import Path

from pkcompiler.artifact.read import Artifact
from pkcompiler.driver.open import Opened
from pkcompiler.exporting.entry import Exported, export
from pkcompiler.lowering.compact.make import compact
from pkcompiler.lowering.compact.result import Report


def export_to(
    artifact: Artifact, opened: Opened, file: Path, *, to: str, smaller: bool, check: bool, force: bool
) -> tuple[Exported, Report | None]:
    """Write the model with the masks of an artifact; with its weights, too, unless the model was given others.

    ``smaller``: as a compact network, of which the report is returned, too. Raises ``PKC629`` where the model is another one, and
    what :func:`pkcompiler.export` and :func:`pkcompiler.compact` raise.
    """
    if opened.weights_sha256 is None:
        artifact.restore(opened.module)
    if smaller:
        small = compact(opened.module, artifact, opened.inputs)
        return export(small, file, to=to, example_inputs=opened.inputs, check=check, force=force), small.report
    return export(opened.module, file, to=to, example_inputs=opened.inputs, masks=artifact, check=check, force=force), None
