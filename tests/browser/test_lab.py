"""The notebooks with widgets as a reader meets them: in JupyterLab, in a real browser, offline."""

import re

import pytest
from servers import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

WINDOW = 1  # the place of the picture that every control of MagnitudeLoss changes
STRIP = 3  # and of that of all layers
ROOM = 779  # px that JupyterLab leaves a widget in a window 900 px high


def number(panel, pattern):
    """The number that ``pattern`` finds in the panel's sentences, once one of them has it."""
    sentences = panel.locator(".sparselab-numbers").filter(has_text=re.compile(pattern)).first.text_content()
    return float(re.search(pattern, sentences)[1].replace(",", ""))


def picture(panel, place=0):
    return panel.locator("img").nth(place).get_attribute("src")


def wait_for_text(page, panel, pattern, seconds=120):
    panel.locator(".sparselab-numbers").filter(has_text=re.compile(pattern)).first.wait_for(timeout=1000 * seconds)


def wait_for_other_picture(page, panel, before, place=0):
    page.wait_for_function(
        "([panel, place, before]) => panel.querySelectorAll('img')[place]?.src !== before",
        arg=[panel.element_handle(), place, before],
    )


def drag(page, handle, pixels):
    """Take a slider's handle, move it in steps, let go."""
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 6):
        page.mouse.move(x + pixels * step / 5, y)
    page.mouse.up()


@pytest.mark.parametrize("name", ["04_mask_recomputation.ipynb", "09_prune_a_language_model.ipynb"])
def test_opening_and_saving_changes_nothing(lab, name):
    window = lab().open(name)
    window.page.wait_for_timeout(1000)  # for what JupyterLab writes into it when it knows the kernel
    assert window.page.locator(".lm-TabBar-tab.jp-mod-dirty").count() == 0
    with window.page.expect_response(lambda said: said.request.method == "PUT" and name in said.url) as saved:
        window.command("File", "Save Notebook")
    assert saved.value.ok
    file = window.page.evaluate("url => fetch(url).then(answer => answer.text())", f"{window.address}/files/{name}")
    assert file == (ROOT / "notebooks" / name).read_text()
    window.assert_quiet()


def test_magnitude_loss(lab):
    window = lab(width=1600).open("02_mask_calculators.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"4:8 keeps 640,000 of 1,280,000 weights")
    wait_for_text(page, panel, r"Whole network under 4:8: \d+\.\d+ % lost; 33 of 50 layers")
    before = picture(panel, WINDOW)

    panel.get_by_label("Pattern").select_option("1:4")
    wait_for_text(page, panel, r"1:4 keeps 320,000 of 1,280,000 weights")
    wait_for_other_picture(page, panel, before, WINDOW)
    at_one_of_four = number(panel, r"loses ([\d.]+) %")
    assert 45 < at_one_of_four < 75

    before = picture(panel, WINDOW)
    drag(page, panel.get_by_role("slider").first, 80)
    wait_for_other_picture(page, panel, before, WINDOW)
    row = int(panel.get_by_label("from row").input_value())
    assert 0 < row <= 976

    before = picture(panel, WINDOW)
    panel.get_by_label("from channel").fill("600")
    panel.get_by_label("from channel").press("Enter")
    wait_for_other_picture(page, panel, before, WINDOW)
    panel.get_by_label("Layer", exact=True).select_option(index=0)
    panel.get_by_role("alert").get_by_text("_conv_stem.weight cannot be pruned to 1:4").wait_for()
    window.assert_readable(panel)
    window.assert_quiet()


def tip(panel, place):
    return panel.locator(".sparselab-frame").nth(place).locator(".sparselab-tip").inner_text()


def test_a_picture_answers_pointer_and_keyboard(lab):
    window = lab(width=1440, height=900).open("pictures.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"Whole network under 2:4")
    panel.locator("img").nth(STRIP).wait_for()
    assert panel.bounding_box()["height"] <= ROOM
    frame = panel.locator(".sparselab-frame").nth(STRIP)
    box = frame.bounding_box()
    frame.hover(position={"x": box["width"] * 0.5, "y": 60})
    name, lost, *_ = tip(panel, STRIP).split("\n")
    assert re.fullmatch(r"\d+", name)
    assert re.fullmatch(r"lost [\d.]+ %", lost)
    frame.click(position={"x": box["width"] * 0.5, "y": 60})
    wait_for_text(page, panel, rf"^{name}\.weight, 64 x 64")

    before = picture(panel, STRIP)
    frame.press("ArrowRight")
    following = tip(panel, STRIP).split("\n")[0]
    assert int(following) == int(name) + 1
    frame.press("Enter")
    wait_for_text(page, panel, rf"^{following}\.weight, 64 x 64")
    wait_for_other_picture(page, panel, before, STRIP)

    page.mouse.move(box["x"] + 200, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 80, steps=4)
    page.mouse.up()
    panel.get_by_role("group", name="Escape: zoom out").wait_for()
    frame.press("Home")
    assert int(tip(panel, STRIP).split("\n")[0]) > 0  # the first that is left
    frame.press("Escape")
    panel.get_by_role("group", name="Escape: zoom out").wait_for(state="detached")
    frame.press("Home")
    assert tip(panel, STRIP).startswith("0\n")
    assert panel.locator("img").nth(STRIP).get_attribute("alt").startswith("Magnitude lost by every layer")
    window.assert_readable(panel)
    window.assert_quiet()


def ringed(panel, key):
    """Where the ring stands once ``key`` is pressed: its middle, in parts of the picture."""
    frame = panel.locator(".sparselab-frame").last
    frame.press(key)
    ring, image = frame.locator(".sparselab-ring").bounding_box(), frame.locator("img").bounding_box()
    return [
        (ring[side] + ring[length] / 2 - image[side]) / image[length]
        for side, length in (("x", "width"), ("y", "height"))
    ]


def test_places_are_the_same_in_a_picture_that_has_been_made_smaller(lab):
    window = lab(width=1440, height=900).open("sweep.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"20 of 20 trials")
    frame = panel.locator(".sparselab-frame").last
    whole = {key: ringed(panel, key) for key in ("Home", "End")}
    assert frame.locator("img").bounding_box()["width"] == 640
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_function("() => document.querySelector('.sparselab-frame img').clientWidth < 500")
    for key, place in whole.items():
        assert ringed(panel, key) == pytest.approx(place, abs=0.01)
    said = tip(panel, 0)
    box = frame.locator("img").bounding_box()
    frame.blur()
    frame.hover(position={"x": box["width"] * whole["End"][0], "y": box["height"] * whole["End"][1]})
    assert tip(panel, 0) == said
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    window.assert_quiet()


def test_permutation_gain(lab):
    window = lab(width=900).open("03_channel_permutation.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"Whole network: Done, (\d+) of \1 axes,")
    best = number(panel, r"efficacy ([\d.]+)\.")
    assert 5 < best < 60

    for name in ("auto", "stripe_groups", "channel_swap"):
        panel.get_by_label(name, exact=True).uncheck()
    panel.get_by_label("annealed_assignment", exact=True).check()
    panel.get_by_label("Seconds each").fill("300")
    panel.get_by_label("Seconds each").press("Enter")
    before = picture(panel)
    panel.get_by_role("button", name="Run").click()
    wait_for_text(page, panel, r"Running, 1 of 1, .*annealed_assignment [1-9]")
    wait_for_other_picture(page, panel, before)
    assert panel.get_by_role("button", name="Run").is_disabled()
    panel.get_by_role("button", name="Stop").click()
    wait_for_text(page, panel, r"Stopped, 1 of 1", seconds=30)
    assert number(panel, r"Best: annealed_assignment\. .*efficacy ([\d.]+)\.") > 5

    panel.get_by_label("optimal", exact=True).check()
    panel.get_by_label("Seconds each").fill("1")
    panel.get_by_label("Seconds each").press("Enter")
    panel.get_by_role("button", name="Run").click()
    panel.get_by_role("alert").get_by_text("optimal: strategy 'optimal' takes up to 64 channels").wait_for()
    wait_for_text(page, panel, r"Done, 1 of 2")
    assert "optimal" not in panel.locator("img").first.get_attribute("alt")

    panel.get_by_role("button", name="Save order").click()
    wait_for_text(page, panel, r"Saved in order\.json")
    window.assert_readable(panel)
    window.assert_quiet()


def test_mask_recomputation(lab):
    window = lab(width=1600, theme="dark").open("training.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"Ready: digits")
    panel.get_by_label("Schedule 1").fill("sometimes")
    panel.get_by_label("Schedule 1").press("Enter")
    panel.get_by_role("button", name="Run").click()
    panel.get_by_role("alert").get_by_text("unknown schedule 'sometimes'").wait_for()
    panel.get_by_label("Schedule 1").fill("recompute,every=20")
    panel.get_by_label("Schedule 1").press("Enter")
    panel.get_by_role("button", name="Run").click()
    wait_for_text(page, panel, r"Done: run 2 of 2, step 40 of 40")
    assert number(panel, r"top-1 \(%\): .*recompute,every=20 ([\d.]+)") > 50
    assert panel.locator("img").count() == 1
    window.assert_readable(panel)
    window.assert_quiet()


def test_speed_forecast(lab):
    window = lab(width=900).open("forecast.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"on NVIDIA H100 SXM: at batch 1 the layers are bound by memory")
    before = picture(panel)
    panel.get_by_label("or type").fill("3000")
    panel.get_by_label("or type").press("Enter")
    wait_for_text(page, panel, r"at batch 3000 the layers are bound by arithmetic")
    wait_for_other_picture(page, panel, before)
    assert panel.bounding_box()["height"] <= ROOM
    panel.get_by_label("Precision").select_option("float8")
    wait_for_text(page, panel, r"2:4 in float8 on NVIDIA H100")
    panel.get_by_label("GPU").select_option("NVIDIA A10")
    wait_for_text(page, panel, r"NVIDIA A10 has no sparse kernels for float8: float16 instead")
    wait_for_text(page, panel, r"2:4 in float16 on NVIDIA A10")
    assert panel.get_by_label("Precision").locator("option").all_inner_texts() == ["float16", "bfloat16", "int8"]
    window.assert_readable(panel)
    window.assert_quiet()


def test_pruner_comparison(lab):
    window = lab(width=900).open("comparison.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"Done: 3 of 3 pruners")
    panel.get_by_text("30 in the list").wait_for()
    before = picture(panel)
    panel.get_by_label("Find").press_sequentially("27")  # without Enter
    panel.get_by_text("1 of 30").wait_for()
    wait_for_other_picture(page, panel, before)
    assert "27.weight at 2:4" in panel.locator("img").first.get_attribute("alt")

    panel.get_by_label("admm", exact=True).check()
    wait_for_text(page, panel, r"Done: 4 of 4 pruners")
    panel.get_by_role("tab", name="Weights").click()
    before = picture(panel, 1)
    panel.get_by_label("Window: row").fill("16")
    panel.get_by_label("Window: row").press("Enter")
    wait_for_other_picture(page, panel, before, 1)
    window.assert_readable(panel)

    page.set_viewport_size({"width": 1440, "height": 900})
    for box in panel.get_by_role("checkbox").all():
        box.check()
    wait_for_text(page, panel, r"Done: 7 of 7 pruners")
    assert panel.bounding_box()["height"] <= ROOM
    window.assert_quiet()


def test_sweep_explorer(lab):
    window = lab(width=900, theme="dark").open("sweep.ipynb")
    window.run_all()
    page, panel = window.page, window.widget()
    wait_for_text(page, panel, r"20 of 20 trials, 0 failed")  # the second cell ran more trials, and it has noticed
    panel.get_by_label("Filter").fill("pattern == '2:4' and seed < 1")
    panel.get_by_label("Filter").press("Enter")
    wait_for_text(page, panel, r"2 of 20 trials")

    frame = panel.locator(".sparselab-frame")
    frame.focus()
    frame.press("Home")
    assert tip(panel, 0).startswith("top1 95")
    frame.press("Enter")
    wait_for_text(page, panel, r"top1\s*95")
    chosen = panel.get_by_label("Trial").locator("option:checked").inner_text().replace("\xa0", " ")
    assert re.fullmatch(r"\d+: pattern 2:4, rate 0\.[12], seed 0", chosen)
    panel.get_by_label("Filter").fill("pattern == '2:4'")
    panel.get_by_label("Filter").press("Enter")
    wait_for_text(page, panel, r"10 of 20 trials")
    assert panel.get_by_label("Trial").locator("option:checked").inner_text().replace("\xa0", " ") == chosen
    wait_for_text(page, panel, r"top1\s*95")
    panel.get_by_label("Filter").fill("sed < 1")
    panel.get_by_label("Filter").press("Enter")
    panel.get_by_role("alert").get_by_text("cannot filter by 'sed < 1'").wait_for()
    window.assert_readable(panel)
    window.assert_quiet()
