"""JupyterLab on loopback and a browser that looks at it. Runs when asked for: `make test-browser`."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "out" / "browser"
START = 300  # seconds within which JupyterLab answers
SETTINGS = {  # quiet, and the whole notebook in the page rather than what is scrolled to
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none", "autoStartDefaultKernel": true}',
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out of a plain `pytest`: they take a server, a kernel and a browser."""
    here = Path(__file__).parent
    if any(Path(argument.split("::")[0]).resolve().is_relative_to(here) for argument in config.args):
        return
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="runs when asked for: make test-browser"))


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A headless browser, driven through Playwright."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium found: apt install chromium, or brew install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Lab:
    """A running JupyterLab: its address, and the folder that it shows."""

    url: str
    token: str
    folder: Path
    settings: Path

    def dress(self, theme: str) -> None:
        """Choose the theme of the pages opened from now on."""
        self._set("apputils-extension/themes", f'{{"theme": "{theme}"}}')

    def _set(self, plugin: str, text: str) -> None:
        path = self.settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


@pytest.fixture
def pictures() -> Path:
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a free port of loopback, its root a copy of notebooks/, nothing of the user's own configuration."""
    home = tmp_path_factory.mktemp("jupyter")
    folder = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "figures", home / "figures")  # which notebooks read as ../figures
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    token = secrets.token_hex(16)
    own = {"JUPYTER_TOKEN": token, "JUPYTER_NO_CONFIG": "1", "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    own["OMP_NUM_THREADS"] = "1"  # threads of small products wait for each other where a browser works beside them
    own |= {f"JUPYTER_{part}_DIR": str(home / part.lower()) for part in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}
    running = Lab(f"http://127.0.0.1:{port}/lab", token, folder, home / "settings")
    for plugin, text in SETTINGS.items():
        running._set(plugin, text)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", "--allow-root"]
    with (home / "log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | own)
        try:
            _wait(server, f"http://127.0.0.1:{port}/api/status", token, home / "log")
            yield running
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(server: subprocess.Popen, url: str, token: str, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if requests.get(url, headers={"Authorization": f"token {token}"}, timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.3)
    pytest.fail(f"JupyterLab did not answer within {START} s:\n{log.read_text(encoding='utf-8')[-3000:]}")
