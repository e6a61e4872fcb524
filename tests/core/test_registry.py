import dataclasses

import pytest

from sparselab.core.registry import Registry, build


@dataclasses.dataclass(frozen=True)
class Recompute:
    every: int = 100
    share: float = 0.5
    mode: str = "keep"
    regrow: bool = False
    stop: int | None = None


def make(text):
    name, *options = text.split(",")
    return build(Recompute, options, what=name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("recompute", Recompute()),
        ("recompute,7", Recompute(7)),
        ("recompute,7,1", Recompute(7, 1.0)),
        ("recompute,every=7, regrow = true", Recompute(7, regrow=True)),
        ("recompute,7,mode=drop,stop=12", Recompute(7, mode="drop", stop=12)),
        ("recompute,stop=none", Recompute()),
        ("recompute,share=1e-3", Recompute(share=1e-3)),
    ],
)
def test_options_by_position_and_by_name(text, expected):
    assert make(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recompute,seven", "option 'every' must be int, got 'seven'"),
        ("recompute,1.5", "option 'every' must be int, got '1.5'"),
        ("recompute,evry=7", "unknown option of recompute 'evry'; valid: .*Did you mean 'every'"),
        ("recompute,1,every=2", "option 'every' is given twice"),
        ("recompute,1,2,a,true,3,4", r"takes at most 5 options \(every, share, mode, regrow, stop\), got '4' too"),
        ("recompute,regrow=maybe", "option 'regrow' must be bool"),
        ("recompute,stop=x", "must be int or NoneType, got 'x'"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        make(text)


def test_registry():
    registry = Registry("thing", {"fraction": "fractions:Fraction", "date": "datetime:date"}, aliases={"day": "date"})
    assert registry.names() == ["date", "fraction"]
    assert registry.get("day") is registry.get("date")
    assert registry.resolve(thing := object()) is thing
    with pytest.raises(ValueError, match=r"unknown thing 'dates'; valid: date, fraction. Did you mean 'date'?"):
        registry.get("dates")
