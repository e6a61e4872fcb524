import dataclasses
import importlib.metadata

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


def test_names_can_be_added():
    registry = Registry("thing", {"fraction": "fractions:Fraction"}, aliases={"day": "date"})
    registry.register("mine", Recompute)
    registry.register("later", "datetime:date")
    assert registry.resolve("mine,7") == Recompute(7)
    assert registry.get("later") is __import__("datetime").date
    assert registry.names() == ["fraction", "later", "mine"]
    assert "mine" in registry
    assert "other" not in registry
    registry.register("mine", Recompute)  # a cell that is run again
    again = dataclasses.make_dataclass("Recompute", [("every", int, 1)], frozen=True)  # ... after it was edited
    again.__module__, again.__qualname__ = Recompute.__module__, Recompute.__qualname__
    registry.register("mine", again)
    assert registry.get("mine") is again
    for name, message in (("fraction", "names the thing fractions:Fraction already"), ("day", "names the thing date")):
        with pytest.raises(ValueError, match=message):
            registry.register(name, Recompute)
    for name in ("a,b", "a b", "a=b", ""):
        with pytest.raises(ValueError, match="cannot name a thing: use letters, digits and _"):
            registry.register(name, Recompute)


def announced(monkeypatch, *points):
    points = [importlib.metadata.EntryPoint(name, value, "sparselab.things") for name, value in points]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "sparselab.things" else [])


def test_installed_packages_add_names(monkeypatch):
    announced(monkeypatch, ("when", "datetime:date"))
    registry = Registry("thing", {"fraction": "fractions:Fraction"}, group="sparselab.things")
    assert registry.names() == ["fraction", "when"]
    assert registry.get("when") is __import__("datetime").date
    with pytest.raises(ValueError, match=r"unknown thing 'whn'; valid: fraction, when. Did you mean 'when'"):
        registry.get("whn")
    with pytest.raises(ValueError, match="names the thing datetime:date already"):
        registry.register("when", Recompute)


def test_a_package_cannot_take_a_name_that_is_taken(monkeypatch):
    announced(monkeypatch, ("fraction", "datetime:date"), ("new", "datetime:date"), ("new", "datetime:time"))
    registry = Registry("thing", {"fraction": "fractions:Fraction"}, group="sparselab.things")
    with pytest.warns(UserWarning, match="is left out") as warned:
        assert registry.names() == ["fraction", "new"]
    assert sorted(str(each.message) for each in warned) == [
        "datetime:date is left out: the thing 'fraction' is fractions:Fraction already",
        "datetime:time is left out: the thing 'new' is datetime:date already",
    ]
    assert registry.get("fraction") is __import__("fractions").Fraction


def test_built_in_names_look_through_no_packages(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: pytest.fail("packages were looked through"))
    assert Registry("thing", {"fraction": "fractions:Fraction"}, group="sparselab.things").get("fraction")
