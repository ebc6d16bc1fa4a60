"""JupyterLab as a reader meets it: `ft_tutorial lab`, a browser, and Run > Restart Kernel and Run All Cells.

FT_TUTORIAL_PYTHON tests the package of another environment, FT_TUTORIAL_SCREENSHOTS names a folder for pictures.
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import FLAGS, chromium
from test_cli import free_port, page_of

from ft_tutorial.lab import shipped

NOTEBOOKS = ["index", "00_terms", "02_freezing", "11_is_it_the_last_stage"]
python = Path(os.environ.get("FT_TUTORIAL_PYTHON", sys.executable))

IDLE = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
RUN_STATE = """() => {
  const panel = jupyterapp.shell.currentWidget;
  const cells = [...panel.content.model.cells].filter(cell => cell.type === 'code' && cell.sharedModel.source.trim());
  const outputs = cells.flatMap(cell => cell.toJSON().outputs);
  return {
    kernel: panel.sessionContext.session?.kernel?.status,
    cells: cells.length,
    run: cells.filter(cell => cell.executionCount !== null).length,
    errors: outputs.filter(output => output.output_type === 'error').map(output => output.ename + ': ' + output.evalue),
    figures: outputs.filter(output => output.data && 'image/png' in output.data).length,
  };
}"""
# Each text of a table, with the contrast between it and what lies behind it (WCAG 2).
CONTRASTS = """() => {
  const numbers = color => { const n = color.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = element => {
    if (!element) return [255, 255, 255];
    const own = numbers(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const cells = document.querySelectorAll('.jp-RenderedHTMLCommon :is(td, th), .jp-RenderedHTMLCommon :is(td, th) a');
  return [...cells].filter(cell => cell.textContent.trim()).map(cell => {
    const back = behind(cell), text = over(numbers(getComputedStyle(cell).color), back);
    const [low, high] = [light(back), light(text)].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), cell.textContent.slice(0, 40)];
  });
}"""
SEE_BARS = """() => {
  window.bars = 0;
  new MutationObserver(() => { if (document.querySelector('.jp-OutputArea progress')) window.bars += 1; })
    .observe(document.body, {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here; on Debian as root it is installed, elsewhere install chromium or Google Chrome")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab that `ft_tutorial lab` started, with settings of its own."
    home, port = tmp_path_factory.mktemp("reader"), free_port()
    (home / "config").mkdir()
    (home / "config/jupyter_lab_config.json").write_text(json.dumps({"LabApp": {"expose_app_in_browser": True}}))
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_TOKEN": "known",
                                "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen([python.with_name("ft_tutorial"), "lab", "mine", "--no-browser", "--port", str(port)],
                                   cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        page_of(f"http://127.0.0.1:{port}/?token=known", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


requests = []


@pytest.fixture(scope="module")
def pages(browser, lab):
    "Each notebook in a page of its own, run by the menu; all begin together."
    opened = {}
    for name in NOTEBOOKS:
        page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
        page.set_default_timeout(300_000)  # the notebooks before it are training already
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{lab}/lab/workspaces/{name}/tree/{name}.ipynb?token=known")
        page.wait_for_function(IDLE)  # a kernel that is still starting would not see the restart
        page.evaluate(SEE_BARS)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        opened[name] = page
    return opened


@pytest.fixture(scope="module")
def figures():
    "How many figures each notebook is shipped with."
    found = {}
    for name in NOTEBOOKS:
        cells = json.loads((shipped() / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        found[name] = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    return found


def ended(page, seconds: int = 1500) -> dict:
    "What the notebook holds when everything, or a cell that failed, has run."
    for _ in range(seconds):
        state = page.evaluate(RUN_STATE)
        if state["errors"] or (state["run"] == state["cells"] and state["kernel"] == "idle"):
            return state
        time.sleep(1)
    raise TimeoutError(str(state))


def shot(page, name: str) -> None:
    if folder := os.environ.get("FT_TUTORIAL_SCREENSHOTS"):
        page.wait_for_timeout(1000)  # cells that come into view are drawn a moment later
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_restart_and_run_all(pages, figures, name):
    page = pages[name]
    state = ended(page)
    assert state["errors"] == [] and state["run"] == state["cells"] > 5, state
    assert page.locator(".jp-Dialog, .jp-toast-button").count() == 0, "nothing is asked"
    assert page.locator(".jp-KernelName").inner_text() == "Python 3 (ipykernel)"
    assert state["figures"] == figures[name] >= 1
    picture = page.locator(".jp-OutputArea img").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    shot(page, name)


def test_a_bar_shows_the_progress_of_an_experiment(pages):
    ended(pages[NOTEBOOKS[-1]])
    assert pages[NOTEBOOKS[-1]].evaluate("window.bars") > 2
    assert pages[NOTEBOOKS[-1]].locator(".jp-OutputArea progress").count() == 0, "it is gone at the end"


def test_nothing_is_asked_of_other_hosts(pages, lab):
    for page in pages.values():
        ended(page)
    assert len(requests) > 100 and not [url for url in requests if not url.startswith((lab, "data:", "blob:"))]


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_tables_are_readable(pages, name, theme):
    page = pages[name]
    ended(page)
    page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str("Light" in theme).lower())
    for _ in range(60):  # the theme's colours come a moment later
        page.wait_for_timeout(500)
        seen = page.evaluate(CONTRASTS)
        faint = [(round(contrast, 1), text) for contrast, text in seen if contrast < 4.5]
        if len(seen) > 5 and not faint:
            break
    assert len(seen) > 5 and faint == []
    page.locator(".jp-RenderedHTMLCommon table").first.scroll_into_view_if_needed()
    shot(page, f"{name} {theme}")


def test_the_launcher_opens_at_the_index(browser, lab):
    page = browser.new_page()
    page.set_default_timeout(300_000)
    page.goto(f"{lab}/?token=known")
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context")
    assert page.evaluate("jupyterapp.shell.currentWidget.context.path") == "index.ipynb"
    page.wait_for_url("**/lab/tree/index.ipynb*")
