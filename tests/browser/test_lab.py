"""Notebooks in a real JupyterLab, their widgets moved by keyboard; pictures of them go to out/browser/.

Held here, in JupyterLab's light theme and in its dark one: every control is reached by Tab and moved by keys, what is
shown follows, text stands out by WCAG AA, pictures have words.

Why the controls are what they are: JupyterLab takes arrow keys for its cells, but leaves them to a slider and to a
field of numbers. In a Dropdown they would move the notebook, so choices are radio buttons (Tab and Space). The icons of
a Play widget have no name, so a button starts it. What ipywidgets 8.1 leaves undone: the handle of a slider is not tied
to its label and tells its index, not its value; the picture's words end with both.
"""

import re
from collections.abc import Callable

import nbformat
import pytest

PATIENCE = 600_000  # milliseconds: a busy machine with two cores takes minutes where others take seconds
ENOUGH = 4.5  # WCAG AA's contrast of text

RAN = """() => {
    const said = [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"]')]
    if (said.some(node => node.textContent.includes('Traceback (most recent call last)'))) return true
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(node => node.textContent.trim())
    return prompts.length > 0 && prompts.every(prompt => /^\\[\\d+\\]:$/.test(prompt))
}"""

BEGUN = """() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(
    node => node.textContent.trim() !== '[ ]:')"""

CONTRASTS = """widget => {
    const parts = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a] }
    const ground = node => {
        for (; node; node = node.parentElement) {
            const colour = parts(getComputedStyle(node).backgroundColor)
            if (colour[3] === 1) return colour
        }
        return [255, 255, 255, 1]
    }
    const light = colour => {
        const [r, g, b] = colour.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
    }
    const texts = [...widget.querySelectorAll('*')].filter(node => node.checkVisibility()
        && [...node.childNodes].some(child => child.nodeType === Node.TEXT_NODE && child.data.trim()))
    return texts.map(node => {
        const below = ground(node), [r, g, b, a] = parts(getComputedStyle(node).color)
        const above = [r, g, b].map((v, n) => v * a + below[n] * (1 - a))
        const [x, y] = [light(above), light(below.slice(0, 3))]
        return [node.textContent.trim(), Math.max(x, y) / Math.min(x, y)]
    })
}"""

EXPLORED = [
    """
    import matplotlib.pyplot as plt

    import fedlab_mm as fl
    from fedlab_mm.plotting.base import closed
    from fedlab_mm.widgets import explore_user, gap_explorer, player

    data = fl.load("toy")
    recipe = fl.Recipe(rounds=3)
    losses = {record.round: record.loss for record in fl.rounds(recipe, data)}
    run = fl.train(recipe, data, progress=False)
    blind = fl.train(recipe.but(without=("image",)), data, progress=False)


    def draw(number, loss):
        figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
        axis.plot(list(losses), list(losses.values()), ".-")
        axis.plot(number, loss, "o", markersize=12, markerfacecolor="none")
        axis.set(xlabel="round", ylabel="loss")
        return closed(figure)
    """,
    'explore_user({"all signals": run, "without covers": blind}, user=3)',
    "player(losses, draw)",
    "gap_explorer(run.signals(), data, {name: z_ID[:, :2] for name, z_ID in run.signals().items()})",
]


@pytest.fixture
def expect(chromium) -> Callable:
    """Playwright's assertion that waits."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    return expect


@pytest.fixture
def opened(lab, chromium, pictures) -> Callable:
    """Opens a notebook in JupyterLab and runs all of its cells."""
    from playwright.sync_api import TimeoutError

    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)

    def run(name: str, theme: str = "JupyterLab Light"):
        lab.dress(theme)
        page.goto(f"{lab.url}/tree/{name}?token={lab.token}&reset")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        for _ in range(5):  # a kernel that says it is idle may not have been asked yet whether it listens
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            try:
                page.wait_for_function(BEGUN, timeout=10_000)
                break
            except TimeoutError:
                continue
        try:
            page.wait_for_function(RAN)
        except TimeoutError as late:
            page.screenshot(path=pictures / "stuck.png")
            prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
            raise AssertionError(f"{name} did not come to its end; its prompts: {prompts}; see stuck.png") from late
        said = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
        errors = [text for text in said if "Traceback (most recent call last)" in text]
        assert not errors, "\n".join(errors)
        return page

    yield run
    page.close()


def prepared(lab, name: str, **parameters: float) -> str:
    """The lab's copy of a notebook, without outputs, with other numbers in its cell of parameters."""
    notebook = nbformat.read(lab.folder / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", ()):
            for parameter, value in parameters.items():
                cell.source, found = re.subn(rf"(?m)^{parameter} = [^#\n]*", f"{parameter} = {value}  ", cell.source)
                assert found == 1, f"{name} has no parameter {parameter}"
    nbformat.write(notebook, lab.folder / name)
    return name


def widget_with(page, part):
    """What a cell put out, of the one cell that put out this part."""
    return page.locator(".jp-CodeCell .jp-Cell-outputWrapper").filter(has=part)


def readable(widget) -> None:
    """Asserts that all its text stands out from what is behind it, and that its pictures have words."""
    contrasts = widget.evaluate(CONTRASTS)
    assert contrasts and all(ratio >= ENOUGH for _, ratio in contrasts), sorted(contrasts, key=lambda c: c[1])[:3]
    assert all(image.get_attribute("alt") for image in widget.locator("img").all())


def test_the_noise_slider_moves_by_keyboard(opened, lab, pictures, expect):
    page = opened(prepared(lab, "09_privacy_tradeoff.ipynb", ROUNDS=2, WATCHED=1))
    slider = page.get_by_role("slider")
    widget = widget_with(page, slider)
    image = widget.locator("img")
    readable(widget)
    widget.screenshot(path=pictures / "noise-first.png")
    first = image.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(image).not_to_have_attribute("src", first)
    expect(image).to_have_attribute("alt", re.compile("variance 0.1; rows touched$"))
    widget.screenshot(path=pictures / "noise-moved.png")
    reach(page, widget.get_by_role("radio", name="all"))
    page.keyboard.press("Space")
    expect(image).to_have_attribute("alt", re.compile("variance 0.1; rows all$"))
    widget.screenshot(path=pictures / "noise-all-rows.png")
    page.screenshot(path=pictures / "noise-page.png")


def test_the_explorers_and_the_player_move_by_keyboard(opened, lab, pictures, expect):
    notebook = nbformat.v4.new_notebook(metadata=nbformat.read(lab.folder / "00_quickstart.ipynb", 4).metadata)
    notebook.cells = [nbformat.v4.new_code_cell(re.sub("(?m)^    ", "", source).strip()) for source in EXPLORED]
    nbformat.write(notebook, lab.folder / "explored.ipynb")
    page = opened("explored.ipynb", "JupyterLab Dark")

    user = page.get_by_role("spinbutton", name="user")
    widget = widget_with(page, user)
    cover = widget.locator("img").first
    readable(widget)
    widget.screenshot(path=pictures / "user-3.png")
    covers = [cover.get_attribute("src")]
    user.focus()
    page.keyboard.press("ArrowUp")
    expect(user).to_have_value("4")
    page.keyboard.press("Enter")
    expect(cover).not_to_have_attribute("src", covers[0])
    covers.append(cover.get_attribute("src"))
    reach(page, widget.get_by_role("button", name="another one"))
    page.keyboard.press("Enter")
    expect(cover).not_to_have_attribute("src", covers[1])
    widget.screenshot(path=pictures / "user-another.png")

    slider = page.get_by_role("slider")
    widget = widget_with(page, slider)
    image = widget.locator("img")
    readable(widget)
    widget.screenshot(path=pictures / "player-first.png")
    first = image.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(image).not_to_have_attribute("src", first)
    expect(image).to_have_attribute("alt", re.compile("round 2$"))
    play = widget.get_by_role("button", name="play")
    reach(page, play, "Shift+Tab")
    page.keyboard.press("Space")
    expect(image).to_have_attribute("alt", re.compile("round 3$"))
    expect(play).to_be_visible()  # at the end it stops, and can be played again
    widget.screenshot(path=pictures / "player-played.png")

    item = page.get_by_role("spinbutton", name="item")
    widget = widget_with(page, item)
    points = widget.locator("svg[role=img]")
    readable(widget)
    widget.screenshot(path=pictures / "gap-first.png")
    widget.get_by_role("button", name="signal").focus()
    reach(page, widget.get_by_role("button", name="popularity"), most=6)
    page.keyboard.press("Space")
    expect(points).to_have_attribute("aria-label", re.compile("coloured by popularity"))
    reach(page, item)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(points).to_have_attribute("aria-label", re.compile(f"item {item.input_value()} is marked"))
    widget.screenshot(path=pictures / "gap-popularity.png")


def reach(page, control, key: str = "Tab", most: int = 4) -> None:
    """Goes to a control by keyboard alone."""
    for _ in range(most):
        page.keyboard.press(key)
        if control.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"not reached by {most} times {key}")
