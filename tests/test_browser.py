"""Notebooks, documentation and report as a reader's browser shows them: `make test-browser`.

Screenshots, those of each picture before and after its slider moved among them, are in
build/browser.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report import grid_directory

from photonic_ffzero.cli.report import main as write_report

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "build" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SETTINGS = {  # every cell is drawn, and nothing lies over the page
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "doNotDisturbMode": True},
}
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
HIDE_FILES = "window.jupyterapp.shell.collapseLeft()"
PATIENCE = float(os.environ.get("BROWSER_PATIENCE", "300"))  # s for a notebook to run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright (requirements.txt)")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab with copies of the notebooks, every cell of which is drawn."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for plugin, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    names = {"JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    names |= {"JUPYTER_CONFIG_DIR": "config", "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(folder / part) for name, part in names.items()}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += [f"--ServerApp.root_dir={folder / 'notebooks'}", "--LabApp.expose_app_in_browser=1"]
    with open(folder / "log.txt", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            about = wait(lambda: next((folder / "runtime").glob("jpserver-*.json"), None))
            facts = wait(lambda: read(about))
            # A workspace for each notebook: else JupyterLab opens those of the tests before, too.
            address = f"http://127.0.0.1:{facts['port']}/lab/workspaces"
            yield f"{address}/{{0}}/tree/{{0}}.ipynb?token={facts['token']}"
        finally:
            server.terminate()
            server.wait(30)


def read(path):
    """The content of a JSON file; None while it is being written."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def wait(look, seconds=PATIENCE):
    """What ``look`` returns once it is not None."""
    end = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < end, "nothing came in time"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * PATIENCE
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(lab, browser, request):
    """A page with a notebook whose cells have all run without an error."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(lab.format(request.param))
    page.wait_for_selector(".jp-CodeCell")
    page.wait_for_function(f"{SESSION}?.isReady")
    page.evaluate(HIDE_FILES)
    page.evaluate(RUN_ALL)
    settle(page)
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0, errors.first.inner_text()
    yield page
    page.evaluate(f"{SESSION}.shutdown()")
    page.close()


SESSION = "window.jupyterapp?.shell.currentWidget?.sessionContext"


def settle(page):
    """Wait until the kernel has nothing to do; it may draw the newest value of a slider later."""
    page.wait_for_timeout(1000)
    page.wait_for_function(f"{SESSION}.session.kernel.status === 'idle'")
    page.wait_for_timeout(1000)


def shot(page, place, name):
    """A screenshot of a part of the page, which is kept."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return place.screenshot(path=SHOTS / f"{name}.png")


def slide(page, slider, key, times=10):
    """Move a slider by its keys, and let its picture be drawn."""
    slider.focus()
    for _ in range(times):
        page.keyboard.press(key)
    settle(page)


def pixels(picture):
    """What a picture of the page shows [H, W, 3], whatever surrounds or covers it."""
    code = """async e => {
        const bytes = new Uint8Array(await (await fetch(e.src)).arrayBuffer());
        return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));
    }"""
    content = base64.b64decode(picture.evaluate(code))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("opened", ["08_twin"], indirect=True)
def test_a_notebook_without_sliders_runs(opened):
    pictures = opened.locator(".jp-RenderedImage img")
    assert pictures.count() >= 4
    for index in range(pictures.count()):
        shot(opened, pictures.nth(index), f"08-{index}")


# The share of the picture's width at its left edge that holds the scale of its y axis.
@pytest.mark.parametrize(
    ("opened", "edge"), [("01_mesh", 0.04), ("02_nonlinearities", 0.1)], indirect=["opened"]
)
def test_each_slider_changes_its_picture_and_keeps_its_scale(opened, edge, request):
    name = request.node.callspec.params["opened"][:2]
    sliders, pictures = opened.locator(".noUi-handle"), opened.locator("img.widget-image")
    pictures.first.wait_for()
    assert sliders.count() == pictures.count() >= 1
    for index in range(sliders.count()):
        picture = pictures.nth(index)
        picture.scroll_into_view_if_needed()
        source, before = picture.get_attribute("src"), pixels(picture)
        box = picture.bounding_box()
        assert (round(box["height"]), round(box["width"])) == before.shape[:2]  # natural size
        shot(opened, picture, f"{name}-{index}-before")
        slide(opened, sliders.nth(index), "ArrowRight")
        opened.wait_for_function(
            "([e, old]) => e.src !== old", arg=[picture.element_handle(), source]
        )
        settle(opened)
        shot(opened, picture, f"{name}-{index}-after")
        after = pixels(picture)
        assert after.shape == before.shape
        changed = (after != before).any(axis=(0, 2))
        assert changed.any()
        assert not changed[: int(edge * len(changed))].any()


RANGE = "e => [e._fullLayout.xaxis.range, e._fullLayout.yaxis.range]"
TITLE = "e => e.layout.title.text"
POINT = """e => {
    const box = e.getBoundingClientRect(), layout = e._fullLayout, trace = e.data[0];
    const x = layout.xaxis, y = layout.yaxis;
    return [box.x + x._offset + x.l2p(trace.x[7]), box.y + y._offset + y.l2p(trace.y[7])];
}"""


@pytest.mark.parametrize("opened", ["04_embeddings"], indirect=True)
def test_the_explorer_keeps_its_scale_and_shows_what_is_under_the_pointer(opened):
    figure = opened.locator(".js-plotly-plot")
    figure.scroll_into_view_if_needed()
    opened.wait_for_timeout(2000)
    scale, sliders = figure.evaluate(RANGE), opened.locator(".noUi-handle")
    assert sliders.count() == 2  # the mesh, the epoch
    title, picture = figure.evaluate(TITLE), shot(opened, figure, "04-trained")
    for name, slider in zip(("epoch", "mesh"), (sliders.last, sliders.first), strict=True):
        slide(opened, slider, "ArrowLeft", 1)
        wait(lambda old=title: figure.evaluate(TITLE) != old or None)
        moved = shot(opened, figure, f"04-{name}")
        assert moved != picture
        assert figure.evaluate(RANGE) == scale
        title, picture = figure.evaluate(TITLE), moved
    opened.mouse.move(*figure.evaluate(POINT))
    details = opened.locator(".widget-html-content:has(img)")
    details.wait_for()
    assert "true:" in details.inner_text()
    opened.screenshot(path=SHOTS / "04-pointer.png")


def is_whole(page):
    """Whether every picture is there, and nothing makes the page wider than its window."""
    page.wait_for_load_state()
    drawn = "[...document.images].every(image => image.naturalWidth > 0)"
    narrow = "document.documentElement.scrollWidth <= window.innerWidth"
    return page.evaluate(drawn) and page.evaluate(narrow)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The folder of the built documentation."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "docs"]
    subprocess.run([*command, folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("width", [1300, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", ["physics", "method"])
def test_equations_of_the_pages_are_drawn_without_a_network(browser, pages, page, width):
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    context.set_default_timeout(1000 * PATIENCE)
    tab = context.new_page()
    tab.goto((pages / f"{page}.html").as_uri())
    equations = tab.locator("math")
    assert equations.count() >= 10
    heights = equations.evaluate_all("all => all.map(e => e.getBoundingClientRect().height)")
    assert min(heights) > 5
    above = (
        "e => e.children[0].getBoundingClientRect().top < e.children[1].getBoundingClientRect().top"
    )
    assert tab.locator("mfrac").first.evaluate(above)
    assert is_whole(tab)
    equation = tab.locator("div.math").first
    equation.scroll_into_view_if_needed()
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / f"docs-{page}-{width}.png")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_without_a_network(browser, tmp_path, scheme):
    grid = grid_directory(tmp_path / "grid")
    report = tmp_path / "report.html"
    assert write_report([str(grid.path), "--output", str(report)]) == 0
    context = browser.new_context(offline=True, color_scheme=scheme)
    context.set_default_timeout(1000 * PATIENCE)
    tab = context.new_page()
    tab.goto(report.as_uri())
    assert tab.locator("img").count() >= 1
    assert is_whole(tab)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    assert dark == (scheme == "dark")
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SHOTS / f"report-{scheme}.png", full_page=True)
    context.close()
