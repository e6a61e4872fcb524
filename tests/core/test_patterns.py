import hypothesis.strategies as st
import pytest
from hypothesis import given

from sparselab.core.patterns import Pattern


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:4", Pattern("1d", 2, 4, 0.5)),
        (" 2:4 ", Pattern("1d", 2, 4, 0.5)),
        ("m4n2_1d", Pattern("1d", 2, 4, 0.5)),
        ("m8n2_2d_greedy", Pattern("2d_greedy", 2, 8, 0.25)),
        ("64:2:8", Pattern("vnm", 2, 8, 0.25, 64)),
        ("unstructured,0.3", Pattern("unstructured", None, None, 0.3)),
        ("row,density=0.5", Pattern("row", None, None, 0.5)),
        ("row, 0.5", Pattern("row", None, None, 0.5)),
        ("unstructured,0.123456789", Pattern("unstructured", None, None, 0.123456789)),
    ],
)
def test_the_grammar(text, expected):
    assert Pattern.parse(text) == expected
    assert Pattern.parse(str(expected)) == expected
    assert Pattern.parse(expected) is expected


@given(st.integers(1, 64), st.integers(0, 64))
def test_every_nm_survives_a_round_trip(n, extra):
    pattern = Pattern.parse(f"{n}:{n + extra}")
    assert (pattern.n, pattern.m, pattern.density) == (n, n + extra, n / (n + extra))
    assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["", "2/4", "2:4:8:1", "m4_1d", "-2:4", "2:4,0.5", "magnitude"])
def test_texts_outside_the_grammar_say_what_to_write(text):
    with pytest.raises(ValueError, match="is not a pattern; write 'N:M'"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["0:4", "5:4", "m4n5_1d", "0:0"])
def test_n_must_fit_m(text):
    with pytest.raises(ValueError, match="N must be at least 1 and at most M"):
        Pattern.parse(text)


def test_v_must_be_positive():
    with pytest.raises(ValueError, match="0:2:8 spans 0 outputs: V must be at least 1"):
        Pattern.parse("0:2:8")


def test_densities():
    with pytest.raises(ValueError, match=r"density 1.5 must lie between 0 and 1"):
        Pattern.parse("unstructured,1.5")
    with pytest.raises(ValueError, match="is not a number"):
        Pattern.parse("unstructured,1e")


def test_what_is_not_a_text():
    with pytest.raises(ValueError, match=r"a pattern is a text such as '2:4', got \(2, 4\) \(tuple\)"):
        Pattern.parse((2, 4))


def test_require_nm():
    assert Pattern.parse("m8n4_1d").require_nm("search") == (4, 8)
    with pytest.raises(ValueError, match=r"search needs an N:M pattern such as '2:4', got 'row,0.5'"):
        Pattern.parse("row,0.5").require_nm("search")
