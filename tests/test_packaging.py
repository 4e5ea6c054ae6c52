"""What the wheel holds, and what it asks for."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import pkcompiler

ROOT = Path(__file__).parent.parent

KINDS = {".py", ".lark", ".pkc", ".json", ".typed", ".css", ".js"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize(("folder", "pattern"), [("grammar", "*.lark"), ("passes", "**/*.pkc")])
def test_the_wheel_holds_the_resources_inside_the_package(names: set[str], folder: str, pattern: str) -> None:
    expected = {f"pkcompiler/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / folder).glob(pattern)}
    assert expected and expected <= names


def test_the_wheel_holds_every_module_and_the_marker_of_types(names: set[str]) -> None:
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "pkcompiler").rglob("*.py")}
    assert modules | {"pkcompiler/py.typed", "pkcompiler/show/page.css", "pkcompiler/show/page.js"} <= names


def test_the_wheel_holds_nothing_else(names: set[str]) -> None:
    outside = {name for name in names if not name.startswith(("pkcompiler/", f"pkcompiler-{pkcompiler.__version__}.dist-info/"))}
    assert outside == set()
    assert {Path(name).suffix for name in names if name.startswith("pkcompiler/")} <= KINDS
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_one_version_and_no_torchvision() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == pkcompiler.__version__
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in [*asked, *pinned] if line.startswith("torchvision")] == []
    assert any(line.startswith("torch==") for line in pinned)
