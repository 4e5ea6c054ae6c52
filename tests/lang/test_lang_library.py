"""Finding passes and schedules, what they hold, and printing schedules back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkcompiler.diagnostics import PkcError
from pkcompiler.lang.ast import DataSpec, Name
from pkcompiler.lang.library import check_files, find_pass, find_schedule, library_names, list_passes, print_schedule
from pkcompiler.lang.syntax.format import format_text

PASSES = Path(__file__).parents[2] / "passes" / "prune"
READS_DATA = {"synflow-dist", "synflow-l2-dist", "snip", "iter-snip"}
READS_DATA |= {"px", "px-exact", "synflow-l2-dist-mean", "synflow-l2-dist-squared-mean"}
READS_DATA |= {"prospr"}
READS_DATA |= {"grasp", "abs-grasp", "grasp-all", "abs-grasp-all", "grasp-it", "force", "fisher", "hessian-diagonal"}
LIBRARY = READS_DATA | {"erk-random", "magnitude", "random", "synflow", "synflow-l2", "synflow-l2-authors", "synflow-l2-phew"}
LIBRARY |= {"synflow-pairs", "synflow-value", "synflow-l2-pairs", "synflow-l2-value"}
LIBRARY |= {"ntk-sap", "path-kernel-trace", "node-path-balance", "phew", "phew-kernels"}
MINE = 'pass mine {\n  source = "me"\n  score  = abs(theta)\n}\n'


def _error(find, text: str, **options):
    with pytest.raises(PkcError) as caught:
        find(text, **options)
    return caught.value.diagnostics


def test_the_library_holds_the_published_passes() -> None:
    assert library_names() == tuple(sorted(LIBRARY))
    passes = {p.name: p for p in list_passes()}
    assert tuple(passes) == library_names()
    assert {p.name for p in passes.values() if p.needs_data} == READS_DATA
    assert all(p.source and p.doc for p in passes.values())
    assert (passes["snip"].rounds, passes["synflow"].rounds, passes["erk-random"].scope) == (1, 100, "erk")


@pytest.mark.parametrize("name", sorted(p.stem for p in PASSES.glob("*.pkc")))
def test_library_files_are_in_the_canonical_layout_and_print_themselves(name: str) -> None:
    text = (PASSES / f"{name}.pkc").read_text()
    assert format_text(text) == text
    found = find_pass(name)
    assert (found.name, found.text) == (name, "".join(line for line in text.splitlines(True) if not line.startswith("#")))
    assert find_pass(found.text) == found


def test_defaults_are_filled_in_and_what_is_given_is_known() -> None:
    found = find_pass('pass a { score = abs(theta) rounds = 3 order = smallest among = all mode = train source = "x" }')
    assert (found.rounds, found.order, found.among, found.mode) == (3, "smallest", "all", "train")
    assert (found.curve, found.scope, found.needs_data) == ("exponential", "global", False)
    assert found.given == {"score", "rounds", "order", "among", "mode", "source"}
    assert find_pass('pass a { source = "x" let b = loss score = abs(theta) * b }').needs_data
    assert not find_pass("pass a { let b = loss score = abs(theta) }").needs_data


def test_names_paths_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pkc").write_text(MINE)
    (tmp_path / "two.pkc").write_text(MINE + MINE.replace("mine", "other") + "schedule s { prune mine { density = 10% } }\n")
    assert find_pass("mine.pkc") == find_pass("./mine.pkc") == find_pass(str(tmp_path / "mine.pkc")) == find_pass(MINE)
    assert find_pass("two.pkc:other").name == "other"
    assert find_pass("mine.pkc", folder=tmp_path.parent / tmp_path.name).name == "mine"
    several = _error(find_pass, "two.pkc")[0]
    assert several.code == "PKC119" and "two.pkc:mine" in several.notes[-1] and "two.pkc:other" in several.notes[-1]
    assert "two.pkc:other" in _error(find_pass, "two.pkc:othr")[0].notes[-1]
    assert "synflow" in _error(find_pass, "synflw")[0].notes[-1]
    assert "mine.pkc" in _error(find_pass, "./mien.pkc")[0].notes[-1]
    assert _error(find_schedule, "mine.pkc")[0].code == "PKC119"
    assert find_schedule("two.pkc").stages[0].pass_name == "mine"


def test_every_error_of_a_text_is_raised_at_once() -> None:
    found = _error(find_pass, "pass a { score = tehta rounds = 0 crve = linear }")
    assert [d.code for d in found] == ["PKC104", "PKC106", "PKC102"]


def test_a_missing_source_is_a_warning_outside_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.pkc"
    path.write_text("pass a { score = abs(theta) }")
    assert [(d.code, d.severity) for d in check_files([str(path)])] == [("PKC115", "warning")]
    assert find_pass(str(path)).source == ""


def test_a_schedule_with_passes_of_its_own_and_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.pkc").write_text(MINE.replace("abs(theta)", "theta^2"))
    stages = 'prune mine { density = 50% }\n  prune "./other.pkc" { density = 20% }\n  prune snip { density = 10% }'
    text = MINE + f"schedule s {{\n  {stages}\n}}\n"
    (tmp_path / "sub" / "s.pkc").write_text(text)
    monkeypatch.chdir(tmp_path)
    found = find_schedule("sub/s.pkc")
    assert [label for label, _ in found.passes] == ["mine", "./other.pkc", "snip"]
    assert found.passes[0][1] == find_pass(MINE)
    assert find_schedule(print_schedule(found), folder=tmp_path / "sub") == found
    alone = find_schedule(print_schedule(found, with_passes=True))
    assert [s.pass_name for s in alone.stages] == ["mine", "mine-2", "snip"]
    assert [p.score for _, p in alone.passes] == [p.score for _, p in found.passes]
    assert [s.density for s in alone.stages] == [0.5, 0.2, 0.1]


def test_a_schedule_may_name_a_pass_of_its_own_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "s.pkc"
    path.write_text(MINE + 'schedule s { prune "./s.pkc:mine" { density = 50% } }')
    assert check_files([str(path)]) == []
    assert find_schedule(str(path)).passes[0][1].name == "mine"


def test_an_unusable_pass_file_is_reported_at_the_stage(tmp_path: Path) -> None:
    (tmp_path / "bad.pkc").write_text("pass bad { score = }")
    path = tmp_path / "s.pkc"
    path.write_text('schedule s { prune "./bad.pkc" { density = 50% } prune "./none.pkc" { density = 40% } }')
    assert [(d.code, d.span.file) for d in check_files([str(path)])] == [("PKC117", str(path)), ("PKC611", str(path))]


@pytest.mark.parametrize(
    ("target", "density"),
    [
        ("density = 2%", 0.02),
        ("density = 0.02", 0.02),
        ("sparsity = 98%", 0.02),
        ("sparsity = 0.98", 0.02),
        ("sparsity = 0%", 1.0),
        ("compression = 50x", 0.02),
        ("compression = 50", 0.02),
        ("density = 100%", 1.0),
    ],
)
def test_targets_mean_a_density(target: str, density: float) -> None:
    assert find_schedule(f"schedule s {{ prune snip {{ {target} }} }}").stages[0].density == density


def test_stages_may_keep_their_target_but_not_loosen_it() -> None:
    text = "schedule s {{ prune snip {{ density = 2% }} prune magnitude {{ {} }} }}"
    assert len(find_schedule(text.format("sparsity = 98%")).stages) == 2
    assert len(find_schedule(text.format("compression = 50x")).stages) == 2
    found = _error(find_schedule, text.format("sparsity = 97%"))[0]
    assert found.code == "PKC114" and "density = 2%" in found.message and "sparsity = 97%" in found.message
    assert "sparsity = 98%" in found.notes[-1]


def test_words_and_globs_and_data() -> None:
    found = find_schedule(
        'schedule s { data = "a.npz" prune snip { density = 2% except = "a.*", bias include = norm select = kth-le } }'
    )
    assert (found.stages[0].exclude, found.stages[0].include, found.stages[0].select) == (("a.*", "@bias"), ("@norm",), "kth_le")
    assert found.data == DataSpec("a.npz")
    assert find_schedule("schedule s { data = digits prune snip { density = 2% } }").data == DataSpec("digits")
    with_options = find_schedule('schedule s { data = dataset("m:f", batch = 3) prune snip { density = 2% } }').data
    assert with_options == DataSpec("m:f", (("batch", 3),))


_parts = st.floats(1e-6, 1, exclude_max=True)
_targets = st.one_of(
    st.tuples(st.sampled_from(["density", "sparsity"]), _parts), st.tuples(st.just("compression"), st.floats(1, 1e6))
)


@settings(max_examples=150, deadline=None)
@given(
    _targets,
    st.none() | st.integers(0, 2**63 - 1),
    st.none() | st.integers(1, 1000),
    st.none() | st.sampled_from(["linear", "cubic"]),
    st.none() | st.sampled_from(["layer", "erk"]),
    st.lists(st.sampled_from(['"a.*"', "bias", "norm", r'"x\"\\"']), max_size=3, unique=True),
    st.lists(_parts, max_size=2),
    st.sampled_from(
        ["", "data = digits", 'data = "x.npz"', "data = mnist5k(per_class = 3, batch = 9)", 'data = dataset("m:f", count = 2)']
    ),
)
def test_printing_a_schedule_and_finding_it_again_are_inverse(target, seed, rounds, curve, scope, globs, floors, data) -> None:
    word, value = target
    lines = [f"{word} = {value!r}", f"rounds = {rounds}", f"curve = {curve}", f"scope = {scope}"]
    lines += [f"except = {', '.join(globs)}"] if globs else []
    lines += [f'floor "f{i}" = {floor!r}' for i, floor in enumerate(floors)]
    body = "\n".join(line for line in lines if not line.endswith("None"))
    found = find_schedule(f"schedule s {{ {data}\n {'' if seed is None else f'seed = {seed}'}\n prune snip {{ {body} }} }}")
    assert (found.seed, found.stages[0].rounds, found.stages[0].curve, found.stages[0].scope) == (seed, rounds, curve, scope)
    assert found.stages[0].target == target
    printed = print_schedule(found)
    assert find_schedule(printed) == found
    assert printed == found.text == format_text(printed)
    assert find_schedule(print_schedule(found, with_passes=True)).stages == found.stages


def test_checking_needs_neither_torch_nor_sympy_nor_rich() -> None:
    code = (
        "import sys; from pkcompiler.lang.library import check_files, list_passes;"
        "from pkcompiler.lang.explain.word import explain;"
        "from pkcompiler.render import render;"
        f"assert render(check_files([{str(PASSES / 'snip.pkc')!r}])) == ''; list_passes(); explain('snip');"
        "print([m for m in ('torch', 'sympy', 'rich', 'numpy', 'networkx', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lets_stay_names_in_order() -> None:
    found = find_pass("synflow-l2")
    assert [name for name, _ in found.lets] == ["w", "R"]
    assert found.score.left == Name("w")
