"""Serve the OHIF viewer for a DICOMweb server on this machine, and take a picture of a segmentation.

    npm pack @ohif/app@3.13.2 && tar xzf ohif-app-3.13.2.tgz
    python -m scripts.dicom_viewer package/dist
    python -m scripts.dicom_viewer package/dist --study UID --picture seg.png

A picture needs playwright and Chromium. The viewer is reachable from this machine only.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_ROOT = "/dicom-web"
_CONFIG = """window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true,
  investigationalUseDialog: { option: 'never' }, disableConfirmationPrompts: true,
  defaultDataSourceName: 'archive',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'archive',
    configuration: {
      friendlyName: 'archive', name: 'archive', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      imageRendering: 'wadors', thumbnailRendering: 'wadors', omitQuotationForMultipartRequest: true,
    },
  }],
};
"""
"""Settings of OHIF: those that it contains name servers on the internet."""
_DESCRIPTION = re.compile("segmentation", re.IGNORECASE)
"""Part of the series description of segmentations that `gcis-run` writes."""
_TIMEOUT, _SETTLE = 180_000, 10_000  # milliseconds; software rendering is slow
_PASSED = ("Accept", "Content-Type")


class _Handler(SimpleHTTPRequestHandler):
    """Answer with files of the viewer, or pass a request on to the archive."""

    def __init__(self, *args: object, archive: str, folder: str) -> None:
        self._archive = archive
        super().__init__(*args, directory=folder)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path.startswith(f"{_ROOT}/"):
            self._pass_on(None)
        elif self.path == "/app-config.js":
            self._answer(200, "text/javascript", _CONFIG.encode())
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/index.html"  # addresses within the viewer
            super().do_GET()

    def do_POST(self) -> None:
        if self.path.startswith(f"{_ROOT}/"):
            self._pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        else:
            self.send_error(404)

    def _pass_on(self, body: bytes | None) -> None:
        headers = {name: self.headers[name] for name in _PASSED if name in self.headers}
        address = self._archive + self.path.removeprefix(_ROOT)
        request = urllib.request.Request(address, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                self._answer(found.status, found.headers["Content-Type"], found.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, "text/plain", error.read())
        except OSError as error:
            self._answer(502, "text/plain", str(error).encode())

    def _answer(self, status: int, kind: str | None, body: bytes) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: addresses contain UIDs of patients' studies."""


def take_picture(address: str, study: str, picture: Path, *, structure: str) -> None:
    """Open a study, load its segmentation, go to a structure, and save what the viewer shows."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (optional)

    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(_TIMEOUT)
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study}")
        listed = page.get_by_text(_DESCRIPTION).first
        listed.wait_for()
        page.wait_for_timeout(_SETTLE)  # an introduction may appear, and the images are loaded
        for introduction in page.get_by_text("Skip all").all():
            introduction.click()
        listed.dblclick()
        page.get_by_text("Loading SEG").first.wait_for()
        page.get_by_text("Loading SEG").first.wait_for(state="hidden")
        page.locator('[data-cy="side-panel-header-right"]').click()
        page.get_by_text(structure, exact=True).first.click()
        page.wait_for_timeout(_SETTLE)
        page.screenshot(path=str(picture))
        browser.close()


def main() -> None:
    """Parse the arguments, and serve until Ctrl-C or until the picture is taken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("viewer", type=Path, help="folder dist of the npm package @ohif/app")
    parser.add_argument("--archive", default="http://127.0.0.1:8042/dicom-web", help="[%(default)s]")
    parser.add_argument("--port", type=int, default=3000, help="port of the viewer [%(default)s]")
    parser.add_argument("--study", help="StudyInstanceUID, for --picture")
    parser.add_argument("--picture", type=Path, help="PNG file")
    parser.add_argument("--structure", default="mandible", help="structure to go to [%(default)s]")
    given = parser.parse_args()
    if not (given.viewer / "index.html").is_file():
        parser.error(f"{given.viewer} is not the folder dist of @ohif/app: it has no index.html")
    if (given.study is None) != (given.picture is None):
        parser.error("--study and --picture belong together")
    handler = partial(_Handler, archive=given.archive.rstrip("/"), folder=str(given.viewer))
    with ThreadingHTTPServer(("127.0.0.1", given.port), handler) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        if given.picture is None:
            sys.stdout.write(f"{address}\n")
            sys.stdout.flush()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return
        threading.Thread(target=server.serve_forever, daemon=True).start()
        take_picture(address, given.study, given.picture, structure=given.structure)
        server.shutdown()


if __name__ == "__main__":
    main()
