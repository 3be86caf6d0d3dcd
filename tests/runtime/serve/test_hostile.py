"""Send the service what an attacker would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gcis_runtime.serve.http.app import make_app
from gcis_runtime.serve.page.routes import page_routes
from tests.support.asgi import ask
from tests.support.service_process import form

JSON = {"content-type": "application/json"}
SECRET = b"SECRET!!" * 64
METAIMAGE = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
    "DimSize = 8 8 8\nElementType = MET_UCHAR\nElementDataFile = {}\n"
)
NRRD = (
    "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 8 8 8\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\ndata file: {}\n\n"
)


@pytest.mark.parametrize("header", [METAIMAGE, NRRD], ids=["mha", "nrrd"])
@pytest.mark.parametrize("target", ["image", "roi", "truth"])
def test_a_header_cannot_name_another_file_of_the_server(
    make_service: Any, material: Path, tmp_path: Path, header: str, target: str
) -> None:
    (tmp_path / "secret.raw").write_bytes(SECRET)
    service = make_service()
    for name in (str(tmp_path / "secret.raw"), "../../../../secret.raw", "C:\\secret.raw"):
        image = (material / "0.nii.gz").read_bytes()
        files = {"image": image, target: header.format(name).encode()}
        body, kind = form([(part, part, data) for part, data in files.items()], [])
        answer = ask(make_app(service), "POST", "/v1/jobs", body, headers={"content-type": kind})
        problem = answer.json if answer.status != 202 else None
        if problem is None:
            service.wait(answer.json["id"], 60)
            problem = ask(make_app(service), "GET", f"/v1/jobs/{answer.json['id']}").json["error"]
        assert problem["message"] == "the image names another file for its voxels", problem


def test_links_below_a_root_lead_nowhere_else(make_service: Any, material: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "study").mkdir(parents=True)
    (tmp_path / "secret.raw").write_bytes(SECRET)
    (root / "study" / "1.dcm").symlink_to(tmp_path / "secret.raw")
    (root / "study" / "a.mhd").write_text(METAIMAGE.format("a.raw"))
    (root / "study" / "a.raw").symlink_to(tmp_path / "secret.raw")
    (root / "b.mhd").write_text(METAIMAGE.format("b.raw"))
    (root / "b.raw").write_bytes(SECRET)
    app = make_app(make_service(), roots=[root])

    def answer(path: str) -> Any:
        return ask(app, "POST", "/v1/jobs", json.dumps({"path": path}).encode(), headers=JSON)

    assert answer("b.mhd").status == 202
    for path in ("study", "study/a.mhd", "a" * 300, "a/" * 3000, "b.mhd/x"):
        found = answer(path)
        assert found.status == 404 and str(root) not in found.body.decode(), path


def test_words_of_clients_are_no_labels_of_metrics(make_service: Any) -> None:
    app = make_app(make_service(start=False))
    for word in ("DOE^JOHN", "a" * 1000, "GET"):
        ask(app, word, "/v1/nothing")
    text = ask(app, "GET", "/metrics").body.decode()
    assert 'method="other",status="404"} 2.0' in text and 'method="GET"' in text
    assert "DOE" not in text and "aaaa" not in text


def test_no_address_is_made_of_the_host_that_a_client_names(make_service: Any) -> None:
    app = make_app(make_service(start=False), token=16 * b"x")
    answer = ask(app, "GET", "/openapi.json/", headers={"host": "evil.example"})
    assert answer.status == 404 and "location" not in answer.headers


@pytest.mark.parametrize("boundary", ["", "b" * 5000, "\x7f", '"'])
def test_a_form_that_cannot_be_read_is_refused(make_service: Any, boundary: str) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    answer = ask(make_app(make_service(start=False)), "POST", "/v1/jobs", b"--a\r\n", headers=headers)
    assert (answer.status, answer.json["message"]) == (422, "the form cannot be read")


def test_the_names_of_fields_are_limited_too(make_service: Any) -> None:
    part = b'--a\r\nContent-Disposition: form-data; name="%s"\r\n\r\n\r\n' % (3000 * b"n")
    headers = {"content-type": "multipart/form-data; boundary=a"}
    body = 100 * part + b"--a--\r\n"
    assert ask(make_app(make_service(start=False)), "POST", "/v1/jobs", body, headers=headers).status == 413


def test_no_number_of_a_slice_is_too_long(make_service: Any, material: Path) -> None:
    service = make_service()
    app = make_app(service, routes=page_routes())
    job = ask(app, "POST", "/v1/jobs", (material / "0.nii.gz").read_bytes()).json["id"]
    service.wait(job, 60)
    for index in ("9" * 5000, "9" * 4000, "-1", "\u00b2", "1_0", "16"):
        answer = ask(app, "GET", f"/v1/jobs/{job}/slices/axial/{index}/image.png?low=0&high=1")
        assert (answer.status, answer.json["message"]) == (404, "the image has no such plane")
    assert ask(app, "GET", f"/v1/jobs/{job}/slices/axial/015/image.png?low=0&high=1").status == 200
