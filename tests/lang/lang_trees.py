"""Random documents of the language, for tests: trees, and texts that nearly parse."""

from __future__ import annotations

from hypothesis import strategies as st

from pkcompiler.lang.ast import Binary, Block, Call, Document, Labelled, Name, Number, Range, Ratio, Setting, Text, Unary

_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}(-[A-Za-z0-9_]{1,3}){0,2}", fullmatch=True)
_units = st.sampled_from(["", "", "", "%", "x", "MB", "e", "E", "x2", "_"])
_numbers = st.one_of(
    st.integers(0, 10**30),
    st.floats(0, 1e300, allow_nan=False),
    st.sampled_from([0, 1, 2, 0.5, 1e-05, 1e22]),
)
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=8)

names = st.builds(Name, _names)
numbers = st.builds(Number, _numbers, _units)
texts = st.builds(Text, _texts)


def _grow(inner):
    keywords = st.lists(st.tuples(_names, _values(inner)), max_size=2)
    return st.one_of(
        st.builds(Unary, st.just("-"), inner),
        st.builds(Binary, st.sampled_from("+-*/^"), inner, inner),
        st.builds(lambda f, a, k: Call(f, tuple(a), tuple(k)), _names, st.lists(_values(inner), max_size=3), keywords),
    )


def _values(inner):
    return st.one_of(inner, inner, st.builds(Range, inner, inner), st.builds(Ratio, st.integers(0, 99), st.integers(0, 99)))


expressions = st.recursive(st.one_of(names, numbers, texts), _grow, max_leaves=12)
values = _values(expressions)
_many = st.lists(values, min_size=1, max_size=3).map(tuple)
_leaves = st.one_of(st.builds(Setting, names, _many), st.builds(Labelled, names, st.one_of(names, texts), _many))


def _blocks(items):
    return st.builds(
        lambda name, label, inner: Block(name, label, tuple(inner)), names, st.none() | names | texts, st.lists(items, max_size=4)
    )


items = st.recursive(_leaves, lambda inner: st.one_of(_leaves, _blocks(inner)), max_leaves=8)
documents = st.lists(items, max_size=4).map(lambda i: Document(tuple(i)))

_PIECES = (
    'pass schedule prune let score = { } ( ) , + - * / ^ .. : % " # theta mask data loss output grad paths abs sum edge gates over',
    "density sparsity compression 98% 50x 0.5 1 2 rounds floor \"*.w\" synflow snip 'x' \\ @ é analysis hvp source curve linear",
    'analysis report "a" gram(R) G ntk() T trace eigenvalues 10 dynamics lr steps collapse synflow',
    "frozen margin quantile density distance",
    "except bias R w ones each sample param uniform() theta^2 abs(theta) digits per_class seed 1e999 pass\tp{score=abs(theta)}",
)
pieces = st.sampled_from([*" ".join(_PIECES).split(" "), "\n"])
near_texts = st.lists(st.tuples(pieces, st.sampled_from([" ", " ", " ", "\n", ""])), max_size=60).map(
    lambda ps: "".join(a + b for a, b in ps)
)
