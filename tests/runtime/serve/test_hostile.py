"""Send the service what an attacker would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gcis_runtime.serve.http.app import make_app
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
        assert problem["message"].endswith("the voxels are in another folder"), problem


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
