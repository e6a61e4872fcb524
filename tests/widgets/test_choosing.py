import pytest

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
from sparselab.widgets.choosing import FEW, LayerChooser, PatternChooser, matching
from sparselab.widgets.layers import pattern_text

NAMES = [f"model.layers.{block}.{part}.weight" for block in range(30) for part in ("mlp.up_proj", "self_attn.q_proj")]


@pytest.fixture
def chooser():
    chosen = LayerChooser({name: name.removesuffix(".weight") for name in NAMES})
    heard = []
    chosen.observe(lambda change: heard.append(change["new"]), "value")
    return chosen, heard


def offered(chooser):
    return [name for _, name in chooser.options]


def test_matching_is_all_words_in_any_case():
    assert matching(NAMES, "") == NAMES
    assert matching(NAMES, " .7.  UP") == ["model.layers.7.mlp.up_proj.weight"]
    assert matching(NAMES, "nothing") == []


def test_a_search_shortens_the_list_as_it_is_typed_and_chooses_what_alone_fits(chooser):
    chooser, heard = chooser
    assert chooser._find.continuous_update
    assert chooser._count.value == "60 in the list"
    chooser._find.value = "q_proj .2"
    assert offered(chooser) == [NAMES[0], *(name for name in NAMES if "q_proj" in name and ".2" in name)]
    assert (heard, chooser.value, chooser._list.value) == ([], NAMES[0], NAMES[0])
    assert chooser._count.value == "11 of 60: choose in the list"
    chooser._find.value = "q_proj .27"
    assert heard == [chooser.value] == ["model.layers.27.self_attn.q_proj.weight"]
    assert chooser._count.value == "1 of 60"


def test_a_choice_that_still_fits_stays_and_nobody_hears_of_another(chooser):
    chooser, heard = chooser
    chooser.value = NAMES[40]
    heard.clear()
    chooser._find.value = "layers.20"
    assert (chooser.value, chooser._list.value, heard) == (NAMES[40], NAMES[40], [])
    chooser._list.value = NAMES[41]
    assert heard == [NAMES[41]]


def test_a_search_without_a_match_says_so_and_changes_nothing(chooser):
    chooser, heard = chooser
    chooser._find.value = "conv"
    assert (offered(chooser), heard, chooser._count.value) == (NAMES[:1], [], "none of 60")
    chooser._find.value = ""
    assert (offered(chooser), heard, chooser._count.value) == (NAMES, [], "60 in the list")


def test_other_labels_leave_what_is_offered_and_chosen(chooser):
    chooser, heard = chooser
    chooser._find.value = "layers.20"
    chooser._list.value = NAMES[41]
    heard.clear()
    before = offered(chooser)
    chooser.relabel({name: name.upper() for name in NAMES})
    assert offered(chooser) == before
    assert [label for label, _ in chooser.options] == [name.upper() for name in before]
    assert (chooser.value, chooser._list.value, heard) == (NAMES[41], NAMES[41], [])


def test_a_value_set_from_outside_brings_the_list_back(chooser):
    chooser, heard = chooser
    chooser._find.value = "up_proj"
    chooser.value = NAMES[7]
    assert (chooser._list.value, chooser._find.value, offered(chooser)) == (NAMES[7], "", NAMES)
    assert heard == [NAMES[7]]


def test_few_layers_need_no_search():
    few = LayerChooser({name: name for name in NAMES[:FEW]}, "Layer", "tip")
    assert few.children == (few._list,)
    assert few._list.description == "Layer"


def test_a_pattern_is_chosen_or_typed():
    chooser = PatternChooser(["1:4", "2:4"], "2:4", pattern_text)
    assert (chooser.value, chooser.options) == ("2:4", ("1:4", "2:4"))
    chooser._field.value = "m4n2_2d_best"
    assert chooser.value == chooser._list.value == "m4n2_2d_best"
    assert chooser.options == ("1:4", "2:4", "m4n2_2d_best")
    assert chooser._field.value == ""
    chooser._field.value = "4:2"
    assert chooser.value == "m4n2_2d_best"
    assert "4:2" in chooser._problem.value
    assert 'role="alert"' in chooser._problem.value
    chooser._field.value = "4:8"
    assert chooser.value == "4:8"
    assert chooser._problem.value == ""
    with pytest.raises(ValueError, match="is not a pattern"):
        chooser.value = "3d_best,7"
