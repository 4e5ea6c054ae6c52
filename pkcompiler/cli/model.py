"""The options of every command that opens a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pkcompiler.cli.target import Seed

if TYPE_CHECKING:
    from pkcompiler.driver.open import Opened

_Function = TypeVar("_Function", bound=Callable[..., Any])

_BUILT = (
    click.argument("model", metavar="MODEL"),
    click.option("--arg", "args", multiple=True, metavar="KEY=VALUE", help="An argument of the model's factory."),
    click.option(
        "--input", "inputs", multiple=True, metavar="SHAPE", help="An example input, batch first: 1x3x32x32, int64:1x128, NAME=1x8."
    ),
    click.option("--seed", type=Seed(), default=0, show_default=True, help="Seed of the initialisation and of random inputs."),
    click.option("--weights", metavar="FILE", help="Weights: .safetensors, .pt or .pth."),
)
_READ = (
    click.option("--output", metavar="NAME|INDEX", help="Which output, where the model returns several tensors."),
    click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="A Python file with @path_op entries."),
    click.option("--gate", "gates", multiple=True, metavar="OP", help="Read this operator as a gate."),
)


def built_options(function: _Function) -> _Function:
    """MODEL and what it is built and fed with; the command takes them as keyword arguments and hands them to :func:`opened`."""
    for option in reversed(_BUILT):
        function = option(function)
    return function


def model_options(function: _Function) -> _Function:
    """:func:`built_options`, and how the model is read as a graph of paths."""
    for option in reversed((*_BUILT, *_READ)):
        function = option(function)
    return function


def opened(model: str, output: str | None = None, **options: Any) -> Opened:
    """The model of a command line. ``say`` among the options: who is told of it, default stderr.

    :raises PkcError: a spec, input, weight file or operator that cannot be used
    """
    from pkcompiler.cli.artifacts import is_artifact
    from pkcompiler.cli.output import say
    from pkcompiler.diagnostics import fail
    from pkcompiler.driver.open import open_model

    if is_artifact(model):
        raise fail(
            "PKC242",
            f"'{model}' is the folder of an artifact, and this command takes a model: a .py file or a module",
            f"an artifact is read by: pkc show {model}, pkc analyze {model}",
        )
    index = int(output) if output is not None and output.isascii() and output.isdigit() else output
    return open_model(model, output=index, **{"say": say, **options})
