"""Test the page of the service in headless Chromium: what is drawn is compared with image and label map."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner

from gcis_runtime.cli import run as cli
from gcis_runtime.serve.page.routes import ASSETS, NIIVUE
from tests.support.browser import browsing, launched, screen
from tests.support.bundles_and_images import write_bundle, write_ct
from tests.support.html_document import Document
from tests.support.service_process import Server, form, serving

pytestmark = pytest.mark.service

COLORS = {1: (250, 240, 200), 2: (200, 60, 40)}
NAMES = {1: "bone", 2: "liver"}
PLANES = {"sagittal": (0, 1, 2), "coronal": (1, 0, 2), "axial": (2, 0, 1)}
"""Normal axis, and the axes across and up the picture, of arrays along right, anterior, superior."""
TOKEN = "a-token-of-the-tests"


class Case:
    """A CT and the label map that the service computed, along right, anterior, superior."""

    def __init__(self, folder: Path, job: str, ct: Path, labels: bytes) -> None:
        self.job, self.ct_file, self.label_bytes = job, ct, labels
        (folder / "labels.nii.gz").write_bytes(labels)
        self.image, self.labels = (
            np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
            for path in (ct, folder / "labels.nii.gz")
        )

    def inside(self, value: int, plane: str, index: int, *, away: tuple[int, ...] = ()) -> tuple[int, int]:
        """Return a voxel (across, up) of a plane within a structure, off the lines of the cross."""
        axis, across, up = PLANES[plane]
        mask = np.moveaxis(self.labels, axis, 0)[index] == value
        core = mask.copy()
        for shift in (1, -1):
            core &= np.roll(mask, shift, 0) & np.roll(mask, shift, 1)
        core[[0, -1]] = core[:, [0, -1]] = False
        if away:
            core[away[across]] = core[:, away[up]] = False
        found = np.argwhere(core)
        assert len(found), f"no core of {value} in {plane} {index}"
        return int(found[0][0]), int(found[0][1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_bundle(folder / "b.gcis")
    write_ct(folder / "ct.nii.gz", affine=np.diag([-3.0, -3.0, 4.0, 1.0]))
    (folder / "token.txt").write_text(TOKEN)
    (folder / "token.txt").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    with serving(data / "jobs", "--bundle", data / "b.gcis", "--engine", "onnx") as found:
        yield found


@pytest.fixture(scope="module")
def case(server: Server, data: Path) -> Case:
    ct = data / "ct.nii.gz"
    body, kind = form([("image", "x", ct.read_bytes())], [("format", "nii.gz"), ("report_html", "true")])
    job = server.post("/v1/jobs", body, Content_Type=kind).json["id"]
    assert server.until_ended(job)["state"] == "done"
    return Case(data, job, ct, server.get(f"/v1/jobs/{job}/label.nii.gz").body)


def open_result(page: Any, server: Server, case: Case, viewer: str) -> None:
    """Show the result of a case with a viewer, at full opacity."""
    page.goto(server.url)
    page.click("#jobs li:last-child button:has-text('Show')")
    page.wait_for_selector("#result[data-viewer]")
    if page.locator("#viewer-choice").is_visible():
        page.select_option("#viewer", viewer)
    page.locator("#opacity").fill("100")  # also while the viewer is being opened
    page.wait_for_selector(f"#result[data-viewer={viewer}]")


def position(page: Any) -> tuple[int, int, int]:
    x, y, z = (int(page.locator(".plane input").nth(i).input_value()) for i in range(3))
    return x, y, z


def until_drawn(page: Any, *, window: str = "-160 240", hidden: str = "") -> None:
    """Wait until every plane shows its slider's slice with a window and without hidden structures."""
    for i in range(3):
        index = page.locator(".plane input").nth(i).input_value()
        drawn = f"{index} {window} {hidden}"
        page.locator(f".plane:nth-child({i + 1})[data-drawn='{drawn}']").wait_for()


def pixel(page: Any, case: Case, plane: str, voxel: tuple[int, int]) -> list[int]:
    """Return the colour of a voxel (across, up) on the screen; pictures begin at the highest voxel."""
    box = page.locator(f".screen[data-plane={plane}] .stack").bounding_box()
    _, across, up = PLANES[plane]
    x = box["x"] + box["width"] * (case.labels.shape[across] - voxel[0] - 0.5) / case.labels.shape[across]
    y = box["y"] + box["height"] * (case.labels.shape[up] - voxel[1] - 0.5) / case.labels.shape[up]
    color: list[int] = screen(page)[int(y), int(x)].tolist()
    return color


def grey_of(case: Case, slice_: int, voxel: tuple[int, int], low: float, high: float) -> float:
    """Return the grey value of a voxel of an axial slice."""
    hu = case.image[:, :, slice_][voxel]
    return float(np.clip((hu - low) / (high - low), 0, 1) * 255)


@pytest.mark.parametrize("value", [1, 2])
def test_a_pixel_inside_a_structure_has_its_colour(
    browser: Any, server: Server, case: Case, value: int
) -> None:
    with browsing(browser) as page:
        open_result(page, server, case, "slices")
        page.click(f"[aria-label='Go to {NAMES[value]}']")
        until_drawn(page)
        place = position(page)
        for plane, (axis, _, _) in PLANES.items():
            voxel = case.inside(value, plane, place[axis], away=place)
            assert np.abs(np.subtract(pixel(page, case, plane, voxel), COLORS[value])).max() <= 2, plane
        page.locator(f"#structure-{value}").uncheck()
        until_drawn(page, hidden=str(value))
        voxel = case.inside(value, "axial", place[2], away=place)
        assert np.ptp(pixel(page, case, "axial", voxel)) <= 2, "a hidden structure is not drawn"


def test_windows_opacity_and_slices(browser: Any, server: Server, case: Case) -> None:
    with browsing(browser) as page:
        open_result(page, server, case, "slices")
        page.click("[aria-label='Go to liver']")
        page.click("#none")
        until_drawn(page, hidden="1,2")
        place = position(page)
        voxel = case.inside(2, "axial", place[2], away=place)
        for number, low, high in ((0, -160, 240), (1, -500, 1300), (2, -1350, 150)):
            page.select_option("#window", str(number))
            until_drawn(page, window=f"{low} {high}", hidden="1,2")
            expected = grey_of(case, place[2], voxel, low, high)
            # Pictures are smoothed, so that neighbours contribute.
            assert np.abs(np.subtract(pixel(page, case, "axial", voxel), expected)).max() <= 25, number
        page.select_option("#window", "1")
        page.click("#all")
        page.locator("#opacity").fill("50")
        until_drawn(page, window="-500 1300")
        grey = grey_of(case, place[2], voxel, -500, 1300)
        half = [(c + grey) / 2 for c in COLORS[2]]
        assert np.abs(np.subtract(pixel(page, case, "axial", voxel), half)).max() <= 15
        page.locator(".screen[data-plane=axial]").hover()
        page.mouse.wheel(0, -100)
        until_drawn(page, window="-500 1300")
        assert position(page) == (place[0], place[1], place[2] + 1)
        page.locator(".plane input").nth(0).press("ArrowLeft")
        assert position(page)[0] == place[0] - 1


def test_a_click_moves_the_other_planes_to_the_voxel(browser: Any, server: Server, case: Case) -> None:
    with browsing(browser) as page:
        open_result(page, server, case, "slices")
        until_drawn(page)
        box = page.locator(".screen[data-plane=axial] .stack").bounding_box()
        page.mouse.click(box["x"] + 1, box["y"] + 1)  # the patient's right, front
        x, y, _ = position(page)
        assert (x, y) == (case.labels.shape[0] - 1, case.labels.shape[1] - 1)


def test_a_file_is_submitted_followed_and_downloaded(browser: Any, server: Server, case: Case) -> None:
    with browsing(browser) as page:
        page.goto(server.url)
        page.wait_for_selector("#app:not([hidden])")
        page.set_input_files("#file", case.ct_file)
        page.wait_for_selector("#result[data-viewer]")
        assert page.inner_text("#result-title") == "ct.nii.gz"
        with page.expect_download() as found:
            page.click("#downloads button:has-text('label.nii.gz')")
        assert (
            gzip.decompress(Path(found.value.path()).read_bytes())[352:]
            == (gzip.decompress(case.label_bytes)[352:])
        )
        names = page.locator("#downloads button").all_inner_texts()
        assert {"report.html", "preview.png", "statistics.csv"} <= set(names)
        page.click("#jobs li:first-child button:has-text('Remove')")
        page.wait_for_selector("#result", state="hidden")


def test_errors_of_the_service_are_shown(browser: Any, server: Server, data: Path) -> None:
    (data / "bad.nii.gz").write_bytes(b"<b>no image</b>")
    with browsing(browser, expect_errors=True) as page:  # the browser logs the refused request
        page.goto(server.url)
        page.wait_for_selector("#app:not([hidden])")
        page.set_input_files("#file", data / "bad.nii.gz")
        page.locator("#submit-error:not(:empty)").wait_for()
        assert "not an image" in page.inner_text("#submit-error")
        assert page.locator("#submit-error b").count() == 0


def test_the_page_asks_for_the_token(browser: Any, data: Path) -> None:
    words = ["--bundle", data / "b.gcis", "--engine", "onnx", "--token-file", data / "token.txt"]
    with serving(data / "guarded", *words) as server, browsing(browser, expect_errors=True) as page:
        assert server.get("/v1/page").status == 401
        page.goto(server.url)
        page.fill("#token", "another-token-of-the-tests")
        page.click("#login button")
        page.locator("#login-error:not(:empty)").wait_for()
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#app:not([hidden])")
        page.set_input_files("#file", data / "ct.nii.gz")
        page.wait_for_selector("#result[data-viewer]")
        assert page.inner_text("#viewer-error") == ""
        assert TOKEN not in page.content() and TOKEN not in page.url


@pytest.mark.skipif(not (ASSETS / NIIVUE).is_file(), reason="run python -m scripts.fetch_niivue")
@pytest.mark.parametrize("value", [1, 2])
def test_niivue_draws_the_colour_of_a_structure(browser: Any, server: Server, case: Case, value: int) -> None:
    with browsing(browser) as page:
        open_result(page, server, case, "niivue")
        page.click(f"[aria-label='Go to {NAMES[value]}']")
        page.evaluate("NiiVueViewer.instance.opts.crosshairWidth = 0; NiiVueViewer.instance.drawScene()")
        page.wait_for_timeout(500)
        affine = server.get(f"/v1/jobs/{case.job}/view").json["affine"]
        structures = server.get(f"/v1/jobs/{case.job}/view").json["structures"]
        place = next(s["place"] for s in structures if s["value"] == value)
        across, up = case.inside(value, "axial", place[2])
        mm = [row[0] * across + row[1] * up + row[2] * place[2] + row[3] for row in affine]
        x, y = page.evaluate(
            "(mm) => { const nv = NiiVueViewer.instance;"
            " const found = nv.frac2canvasPosWithTile(nv.mm2frac(mm), 0);"
            " return [found.pos[0] / nv.uiData.dpr, found.pos[1] / nv.uiData.dpr]; }", mm,
        )  # fmt: skip
        box = page.locator("#niivue-canvas").bounding_box()
        point = int(box["y"] + y), int(box["x"] + x)
        assert np.abs(screen(page)[point] - COLORS[value]).max() <= 12
        page.locator(f"#structure-{value}").uncheck()
        page.wait_for_timeout(500)
        assert np.ptp(screen(page)[point]) <= 6, "a hidden structure is not drawn"


def test_the_report_is_styled_by_its_own_sheet_alone(
    browser: Any, server: Server, case: Case, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    report.write_bytes(server.get(f"/v1/jobs/{case.job}/report.html").body)
    text = report.read_text()
    assert str(case.ct_file.parent) not in text and "/jobs/" not in text, "no path of the server"
    with browsing(browser) as page:
        page.goto(f"file://{report}")
        color = page.evaluate("getComputedStyle(document.querySelector('.notice')).backgroundColor")
        assert color == "rgb(255, 241, 218)"
        loaded = page.evaluate("[...document.images].every((picture) => picture.naturalWidth > 0)")
        assert loaded and page.locator("img").count() >= 4


def test_slices_are_refused_outside_the_image_and_for_unknown_jobs(server: Server, case: Case) -> None:
    base = f"/v1/jobs/{case.job}/slices"
    for path, status in (
        (f"{base}/axial/30/labels.png", 404),
        (f"{base}/oblique/3/labels.png", 404),
        (f"{base}/axial/3/other.png", 404),
        (f"{base}/axial/3/image.png", 422),
        (f"{base}/axial/3/image.png?low=9&high=1", 422),
        (f"{base}/axial/3/image.png?low=nan&high=inf", 422),
        (f"/v1/jobs/{'0' * 32}/view", 404),
        ("/assets/../page.html", 404),
        ("/assets/page.py", 404),
    ):
        answer = server.get(path)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), path
    assert (
        server.get("/").headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    )


def test_a_dicom_series_can_be_looked_at(server: Server, data: Path) -> None:
    pytest.importorskip("pydicom")
    from gcis_runtime.images.files import read_volume
    from tests.support.dicom_series import slices_of, write

    folder = write(slices_of(read_volume(data / "ct.nii.gz")), data / "series")
    files = [("image", path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    body, kind = form(files, [("format", "nii.gz"), ("format", "dicom-seg")])
    job = server.post("/v1/jobs", body, Content_Type=kind).json["id"]
    assert server.until_ended(job)["state"] == "done", server.log
    assert server.get(f"/v1/jobs/{job}/view").json["shape"] == [40, 36, 30]
    (data / "shown.nii.gz").write_bytes(server.get(f"/v1/jobs/{job}/image.nii.gz").body)
    shown, original = (
        np.asarray(nib.as_closest_canonical(nib.load(data / name)).dataobj)
        for name in ("shown.nii.gz", "ct.nii.gz")
    )
    np.testing.assert_array_equal(shown, original)


def test_the_client_fetches_the_pages(server: Server, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cts").mkdir()
    for seed, name in enumerate("ab"):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    words = [tmp_path / "cts", "--server", server.url, "-o", tmp_path / "out", "--report-html", "--json"]
    done = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    for report in json.loads(done.stdout)["results"]:
        page = Path(report["report_html"])
        assert page == tmp_path / "out" / f"{report['case']}_report.html"
        assert Document(page.read_text()).problems == []
    cohort = Document((tmp_path / "out" / "summary.html").read_text())
    assert cohort.problems == [] and len(cohort.all("img")) == 2
