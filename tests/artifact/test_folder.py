"""The folders of a run: nothing is deleted that no run has made, and what lies in the way is refused, whatever it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import pkcompiler
from pkcompiler.artifact import folder, resume
from pkcompiler.artifact.resume import begin
from pkcompiler.diagnostics import PkcError
from tests.cli_support import home, listing, pkc, pruned

__all__ = ["home", "pruned"]

RECIPE = {"dtype": "float64"}
PRUNE = ("prune", "mlp.py", "--pass", "magnitude", "--density", "40%")


def thesis(place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "thesis.tex").write_text("all of it")
    return place


def refused(code: str, *arguments: str) -> str:
    result = pkc(*arguments)
    assert result.exit_code == 1 and f"error[{code}]" in result.stderr, result.stderr
    return result.stderr


def test_a_folder_called_replaced_is_nobodys_business(home: Path, pruned: Path) -> None:
    shutil.copytree(pruned / "a", home / "a")
    thesis(home / "a.replaced")
    assert pkc(*PRUNE, "-o", "a", "--force").exit_code == 0
    assert pkc(*PRUNE, "-o", "a").exit_code == 0
    assert listing(home / "a.replaced") == ["thesis.tex"] and pkcompiler.load("a").kept == 413


@pytest.mark.parametrize("flags", [(), ("--force",), ("--fresh",)])
def test_an_artifact_called_partial_is_not_emptied(home: Path, pruned: Path, flags: tuple[str, ...]) -> None:
    shutil.copytree(pruned / "a", home / "b.partial")
    before = listing(home / "b.partial")
    assert "no run has made it" in refused("PKC621", *PRUNE, "-o", "b", *flags)
    assert listing(home / "b.partial") == before and not (home / "b").exists()


@pytest.mark.parametrize("ending", ["partial", "replaced"])
def test_the_names_of_what_is_unfinished_or_replaced_are_refused(home: Path, ending: str) -> None:
    assert "-o b" in refused("PKC621", *PRUNE, "-o", f"b.{ending}")
    (home / "link").symlink_to(f"c.{ending}")
    refused("PKC621", *PRUNE, "-o", "link", "--force")
    with pytest.raises(PkcError, match="PKC621"):
        pkcompiler.prune(nn.Linear(3, 2), torch.ones(1, 3), "magnitude", density=0.5).save(f"d.{ending}")
    (home / "s.pkc").write_text('study s { model = "mlp.py" passes = synflow compression = 10 seeds = 0 train = "mlp.py:model" }')
    assert "-o e" in refused("PKC621", "study", "s.pkc", "-o", f"e.{ending}")
    assert listing(home) == ["link", "mlp.py", "s.pkc", "two.pkc"]


@pytest.mark.parametrize("force", [False, True])
def test_what_fills_the_folder_during_the_run_stays(home: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    whole = folder.rename_into_place

    def filled(partial: Path, out: Path, **options: bool) -> None:
        thesis(out)
        whole(partial, out, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "rename_into_place", filled)
        said = refused("PKC621", *PRUNE, "-o", "out", *["--force"] * force)
    assert "the result is whole, in 'out.partial'" in said and listing(home / "out") == ["thesis.tex"]
    (home / "out").rename("mine")
    done = pkc(*PRUNE, "-o", "out")
    assert done.exit_code == 0 and "up to date" in done.stderr and pkcompiler.load("out").extra == ()
    assert sorted(p.name for p in home.iterdir() if p.name != "__pycache__") == ["mine", "mlp.py", "out", "two.pkc"]


@pytest.mark.parametrize("force", [False, True])
def test_a_link_that_comes_during_the_run_moves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    whole = folder.rename_into_place

    def linked(partial: Path, out: Path, **options: bool) -> None:
        thesis(home / "theirs")
        out.symlink_to("theirs")
        whole(partial, out, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "rename_into_place", linked)
        said = refused("PKC621", *PRUNE, "-o", "out", *["--force"] * force)
    assert "the result is whole, in 'out.partial'" in said and listing(home / "theirs") == ["thesis.tex"]
    (home / "out").unlink()
    assert pkc(*PRUNE, "-o", "out").exit_code == 0 and pkcompiler.load("out").kept == 413


@pytest.mark.parametrize("sealed", [True, False])
def test_a_readme_that_somebody_has_written_into_keeps_its_artifact(home: Path, pruned: Path, sealed: bool) -> None:
    shutil.copytree(pruned / "a", home / "out")
    readme = home / "out" / "README.txt"
    readme.write_text("my own notes\n" if not sealed else readme.read_text() + "my own notes\n")
    if not sealed:
        (home / "out" / "manifest.json").write_text('{"format": "pkcompiler artifact", "files": ')
    assert "'README.txt'" in refused("PKC621", *PRUNE, "-o", "out", "--force")
    assert "my own notes" in readme.read_text()
    readme.unlink()
    assert pkc(*PRUNE, "-o", "out", "--force").exit_code == 0 and pkcompiler.load("out").kept == 413


def test_what_comes_between_the_look_and_the_renaming_stays(home: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(pruned / "a", home / "out")
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        if Path(target).name == "older":
            (home / "out" / "thesis.tex").write_text("all of it")
        rename(source, target)

    monkeypatch.setattr(folder.os, "rename", late)
    refused("PKC621", *PRUNE, "-o", "out", "--force")
    assert (home / "out" / "thesis.tex").exists() and pkcompiler.load("out").extra == ("thesis.tex",)


def test_notes_in_an_artifact_and_other_manifests_keep_it(home: Path, pruned: Path) -> None:
    shutil.copytree(pruned / "a", home / "out")
    (home / "out" / "notes.txt").write_text("mine")
    assert "'notes.txt'" in refused("PKC621", *PRUNE, "-o", "out", "--force")
    (home / "web").mkdir()
    (home / "web" / "manifest.json").write_text('{"name": "a web page"}')
    refused("PKC621", *PRUNE, "-o", "web", "--force")
    assert (home / "web" / "manifest.json").exists() and len(listing(home / "out")) == 8


def test_a_link_as_the_output_stays_one(home: Path, pruned: Path) -> None:
    shutil.copytree(pruned / "a", home / "old")
    (home / "empty").mkdir()
    for name, to in {"to-old": "old", "to-empty": "empty", "to-nothing": "sub/new"}.items():
        (home / name).symlink_to(to)
        assert pkc(*PRUNE, "-o", name, *["--force"] * (to == "old")).exit_code == 0
        assert (home / name).is_symlink() and pkcompiler.load(name).kept == pkcompiler.load(to).kept == 413
    (home / "round").symlink_to("round")
    (home / "to-file").symlink_to("mlp.py")
    for name in ("round", "to-file"):
        refused("PKC621", *PRUNE, "-o", name, "--force")


@pytest.mark.parametrize(
    ("name", "code"), [("a\0b", "PKC620"), ("n" * 300, "PKC620"), (".", "PKC621"), ("..", "PKC621"), ("/", "PKC621")]
)
def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    monkeypatch.chdir(tmp_path)
    for work in (lambda: begin(Path(name), RECIPE), lambda: begin(Path(name), RECIPE, force=True)):
        with pytest.raises(PkcError, match=code):
            work()
    for read in (pkcompiler.load, lambda path: pkc("show", path).exit_code == 1 and pkcompiler.load(path)):
        with pytest.raises(PkcError, match="PKC624"):
            read(name)
    assert list(tmp_path.iterdir()) == []


# what runs leave -----------------------------------------------------------------------------------------------------------


def starved(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Files of this name cannot be written any more."""
    write = resume.write_whole

    def full(path: Path, *given: object, **named: object) -> None:
        if Path(path).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(resume, "write_whole", full)
    monkeypatch.setattr("pkcompiler.artifact.write.write_whole", full)


@pytest.mark.parametrize("name", ["recipe.json", "command", "state.safetensors", "weights.safetensors", "manifest.json"])
def test_after_a_full_disk_the_same_command_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    command = ("prune", "mlp.py", "--schedule", "two.pkc", "-o", "out")
    with monkeypatch.context() as patch:
        starved(patch, name)
        assert "the same command goes on" in refused("PKC620", *command)
    assert not (home / "out").exists() and (home / "out.partial").exists() == (name != "recipe.json")
    done = pkc(*command)
    assert done.exit_code == 0 and ("resuming" in done.stderr) == (name in ("weights.safetensors", "manifest.json"))
    assert listing(home)[:1] == ["mlp.py"] and pkcompiler.load("out").extra == ()


def interrupted(out: Path) -> Path:
    """An unfinished run of RECIPE with a state."""
    work = begin(out, RECIPE)
    work.checkpoint(resume.Round(0, 3, 9, 0.5, 1, 2, {"w": torch.tensor([True, False])}), 1.0)
    work.release()
    return work.partial


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda partial: (partial / "recipe.json").write_text("{"), "resumed"),
        (lambda partial: (partial / "recipe.json").unlink(), "resumed"),
        (lambda partial: (partial / "manifest.json").write_text("pkcompiler artifact"), "resumed"),
        (lambda partial: (partial / ".state.safetensors.0123456789abcdef.unfinished").write_text("half"), "resumed"),
        (lambda partial: flipped(partial / "state.safetensors"), "new"),
        (lambda partial: (partial / "state.safetensors").unlink(), "new"),
    ],
)
def test_a_damaged_run_goes_on_from_what_is_whole(tmp_path: Path, damage: Callable[[Path], object], found: str) -> None:
    partial = interrupted(tmp_path / "out")
    damage(partial)
    work = begin(tmp_path / "out", RECIPE)
    work.release()
    assert work.found == found and not list(partial.glob(".*"))


def flipped(path: Path) -> None:
    """One bit of the last byte, which is one of the masks."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 128
    path.write_bytes(bytes(content))


def test_a_whole_result_of_another_recipe_is_not_dropped(home: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder, "rename_into_place", killed)
        assert pkc(*PRUNE, "-o", "out").exit_code == 130
    before = listing(home / "out.partial")
    assert "manifest.json" in before
    refused("PKC622", "prune", "mlp.py", "--pass", "random", "--density", "40%", "-o", "out")
    assert listing(home / "out.partial") == before


def test_an_older_artifact_that_waits_gets_its_name_back(tmp_path: Path) -> None:
    partial = interrupted(tmp_path / "out")
    (partial / "older").mkdir()
    (partial / "older" / "manifest.json").write_text('{"format": "pkcompiler artifact"}')
    begin(tmp_path / "out", {"dtype": "float32"}, force=True).release()
    assert listing(tmp_path / "out") == ["manifest.json"] and "older" not in listing(partial)
