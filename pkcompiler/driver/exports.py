"""Export: an artifact and an opened model -> a file that works without pkcompiler."""

from __future__ import annotations

from pathlib import Path

from pkcompiler.artifact.read import Artifact
from pkcompiler.driver.open import Opened
from pkcompiler.exporting.entry import Exported, export


def export_to(artifact: Artifact, opened: Opened, file: Path, *, to: str, check: bool, force: bool) -> Exported:
    """Write the model with the masks of an artifact; with its weights, too, unless the model was given others.

    Raises ``PKC629`` where the model is another one, and what :func:`pkcompiler.export` raises.
    """
    if opened.weights_sha256 is None:
        artifact.restore(opened.module)
    return export(opened.module, file, to=to, example_inputs=opened.inputs, masks=artifact, check=check, force=force)
