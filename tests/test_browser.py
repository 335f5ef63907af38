"""Notebooks in JupyterLab, as a reader's browser shows them: `make test-browser`.

Screenshots of each picture before and after its slider moved are in build/browser.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "build" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SETTINGS = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
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
    settings = folder / "settings" / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))
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
            yield f"http://127.0.0.1:{facts['port']}/lab/tree/{{}}?token={facts['token']}"
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
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady")
    page.evaluate(RUN_ALL)
    busy = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
    page.wait_for_function(f"{busy} === 'idle'")
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0, errors.first.inner_text()
    yield page
    page.close()


def shot(page, place, name):
    """A screenshot of a part of the page, which is kept."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return place.screenshot(path=SHOTS / f"{name}.png")


def slide(page, slider, key, times=10):
    """Move a slider by its keys, and let its picture be drawn."""
    slider.focus()
    for _ in range(times):
        page.keyboard.press(key)
    busy = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
    page.wait_for_timeout(1000)
    page.wait_for_function(f"{busy} === 'idle'")
    page.wait_for_timeout(1000)


@pytest.mark.parametrize("opened", ["08_twin.ipynb"], indirect=True)
def test_a_notebook_without_sliders_runs(opened):
    pictures = opened.locator(".jp-RenderedImage img")
    assert pictures.count() >= 4
    shot(opened, pictures.last, "08")


@pytest.mark.parametrize(
    "opened", ["01_mesh.ipynb", "02_nonlinearities.ipynb"], indirect=True, ids=["01", "02"]
)
def test_each_slider_changes_its_picture_at_its_natural_size(opened, request):
    name = request.node.callspec.id
    sliders, pictures = opened.locator(".noUi-handle"), opened.locator(".widget-image img")
    pictures = pictures if pictures.count() else opened.locator("img.widget-image")
    assert sliders.count() == pictures.count() >= 1
    for index in range(sliders.count()):
        picture = pictures.nth(index)
        picture.scroll_into_view_if_needed()
        natural = picture.evaluate("e => [e.naturalWidth, e.naturalHeight]")
        box = picture.bounding_box()
        assert [round(box["width"]), round(box["height"])] == natural
        before = shot(opened, picture, f"{name}-{index}-before")
        slide(opened, sliders.nth(index), "ArrowRight")
        assert shot(opened, picture, f"{name}-{index}-after") != before
        assert picture.evaluate("e => [e.naturalWidth, e.naturalHeight]") == natural


RANGE = "e => [e._fullLayout.xaxis.range, e._fullLayout.yaxis.range]"
POINT = """e => {
    const box = e.getBoundingClientRect(), layout = e._fullLayout, trace = e.data[0];
    const x = layout.xaxis, y = layout.yaxis;
    return [box.x + x._offset + x.l2p(trace.x[7]), box.y + y._offset + y.l2p(trace.y[7])];
}"""


@pytest.mark.parametrize("opened", ["04_embeddings.ipynb"], indirect=True)
def test_the_explorer_keeps_its_scale_and_shows_what_is_under_the_pointer(opened):
    figure = opened.locator(".js-plotly-plot")
    figure.scroll_into_view_if_needed()
    opened.wait_for_timeout(2000)
    scale, sliders = figure.evaluate(RANGE), opened.locator(".noUi-handle")
    assert sliders.count() == 2  # the mesh, the epoch
    picture = shot(opened, figure, "04-trained")
    for name, slider in zip(("epoch", "mesh"), (sliders.last, sliders.first), strict=True):
        slide(opened, slider, "ArrowLeft", 1)
        moved = shot(opened, figure, f"04-{name}")
        assert moved != picture
        assert figure.evaluate(RANGE) == scale
        picture = moved
    opened.mouse.move(*figure.evaluate(POINT))
    details = opened.locator(".widget-html-content:has(img)")
    details.wait_for()
    assert "true:" in details.inner_text()
    opened.screenshot(path=SHOTS / "04-pointer.png")
