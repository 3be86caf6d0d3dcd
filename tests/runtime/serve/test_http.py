"""Test the HTTP interface in this process: access, uploads, limits, errors, and the OpenAPI document."""

from __future__ import annotations

import hmac
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from gcis_runtime.images.files import read_volume
from gcis_runtime.serve.http import guard, uploads
from gcis_runtime.serve.http.app import make_app
from gcis_runtime.serve.http.openapi import document
from tests.support.asgi import ask
from tests.support.dicom_series import slices_of, write
from tests.support.service_process import form

TOKEN = b"0123456789abcdef"
JSON = {"content-type": "application/json"}


@pytest.fixture
def service(make_service: Any) -> Any:
    return make_service()


@pytest.fixture
def app(service: Any) -> Any:
    return make_app(service)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_token_is_needed_for_everything_that_shows_jobs(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(service, token=TOKEN)
    compared, honest = [], hmac.compare_digest

    def compare(one: bytes, two: bytes) -> bool:
        compared.append((one, two))
        return honest(one, two)

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    right = bearer(TOKEN.decode())
    for method, path in (("GET", "/v1/jobs"), ("GET", "/metrics"), ("POST", "/v1/segment"), ("GET", "/v1/x")):
        for headers in ({}, bearer("wrong"), bearer(TOKEN.decode() + "x"), {"authorization": TOKEN.decode()},
                        bearer("\xe4"), {"authorization": f"Basic {TOKEN.decode()}"}):  # fmt: skip
            answer = ask(app, method, path, headers=headers)
            assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
        assert ask(app, method, path, headers=right).status != 401
    assert ask(app, "GET", "/health").status == ask(app, "GET", "/ready").status == 200
    assert ask(app, "GET", "/v1/jobs", headers={**right, "host": "any.name"}).status == 200
    assert len(compared) > 20, "tokens are compared in constant time"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:9"}, 200),
        ({"host": "[::1]:9"}, 200),
        ({"host": "proxy.example"}, 200),
        ({"host": "evil.example"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8470"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_use_a_service_without_a_token(
    service: Any, headers: dict[str, str], status: int
) -> None:
    app = make_app(service, hosts=["Proxy.example"])
    assert ask(app, "GET", "/v1/jobs", headers=headers).status == status


def test_errors_are_problem_details(app: Any, material: Path) -> None:
    ct = (material / "0.nii.gz").read_bytes()
    schema = {"$ref": "#/components/schemas/Problem", **document()}
    table = [
        ("GET", "/nothing", b"", {}, 404),
        ("PUT", "/v1/jobs", b"", {}, 405),
        ("GET", f"/v1/jobs/{'0' * 32}", b"", {}, 404),
        ("GET", "/v1/jobs/..%2f", b"", {}, 404),
        ("POST", "/v1/jobs", b"junk", {}, 415),
        ("POST", "/v1/jobs", ct[:200], {}, 422),
        ("POST", "/v1/jobs?colour=red", ct, {}, 422),
        ("POST", "/v1/jobs?preview=maybe", ct, {}, 422),
        ("POST", "/v1/jobs?preview=true&preview=true", ct, {}, 422),
        ("POST", "/v1/jobs?format=png", ct, {}, 422),
        ("POST", "/v1/jobs?prompt=xyz", ct, {}, 422),
        ("POST", "/v1/jobs?bundle=xyz", ct, {}, 404),
        ("POST", "/v1/jobs", b'{"path": "x"}', JSON, 403),
        ("POST", "/v1/jobs", b'{"path": 3}', JSON, 422),
        ("POST", "/v1/jobs", b"[" * 9999, JSON, 422),
        ("POST", "/v1/jobs", b"x", {"content-type": "multipart/form-data"}, 422),
        ("POST", "/v1/jobs", b"x", {"content-type": "multipart/form-data; boundary=b"}, 422),
    ]
    for method, path, body, headers, status in table:
        answer = ask(app, method, path, body, headers=headers)
        assert answer.status == status, (path, body[:20], answer.body)
        assert answer.headers["content-type"] == "application/problem+json"
        jsonschema.validate(answer.json, schema)
        assert answer.json["status"] == status and answer.json["detail"]
    answer = ask(app, "POST", "/v1/jobs?prompt=livr", ct)
    assert "Did you mean 'liver'?" in answer.json["fix"]
    assert ask(app, "GET", "/v1/jobs").json["jobs"] == []


def test_bodies_are_limited_with_and_without_an_announced_length(make_service: Any, material: Path) -> None:
    service = make_service(upload_bytes=1000)
    app = make_app(service)
    ct = (material / "0.nii.gz").read_bytes()
    assert len(ct) > 2000
    for body in (ct, [ct[:600], ct[600:1200], ct[1200:]]):
        answer = ask(app, "POST", "/v1/jobs", body)
        assert answer.status == 413 and "at most 1 MiB" in answer.json["detail"]
    data, kind = form([("image", "x", ct)], [])
    assert ask(app, "POST", "/v1/jobs", [data], headers={"content-type": kind}).status == 413
    data, kind = form([], [("prompt", "x" * 600)])
    assert ask(app, "POST", "/v1/jobs", data, headers={"content-type": kind}).status == 422


def test_a_full_queue_refuses_and_asks_to_wait_longer_each_time(make_service: Any, material: Path) -> None:
    service = make_service(start=False, queue=2)
    app = make_app(service)
    ct = (material / "0.nii.gz").read_bytes()
    answers = [ask(app, "POST", "/v1/jobs", ct) for _ in range(6)]
    assert [a.status for a in answers] == [202, 202, 429, 429, 429, 429]
    waits = [int(a.headers["retry-after"]) for a in answers[2:]]
    assert waits == sorted(waits) and waits[-1] > waits[0] > 0
    assert answers[2].json["retry_after"] == waits[0]
    assert ask(app, "GET", "/ready").status == 503, "no engine is open"


def test_a_client_that_stops_sending_frees_its_slot(
    make_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_DRAIN_SECONDS", 0.05)
    app = make_app(make_service(start=False, idle_seconds=0.2, uploads=1))
    for _ in range(2):
        answer = ask(app, "POST", "/v1/jobs", [b"x" * 100], complete=False)
        assert answer.status == 408 and "nothing for 0.2 s" in answer.json["detail"]


def test_images_are_recognised_by_their_content(
    app: Any, service: Any, material: Path, tmp_path: Path
) -> None:
    from gcis_runtime.images.itk import write_itk

    volume = read_volume(material / "0.nii.gz")
    bodies = {}
    for suffix in ("nrrd", "mha"):
        write_itk(tmp_path / f"x.{suffix}", volume.array, like=volume)
        bodies[suffix] = ("/v1/jobs", (tmp_path / f"x.{suffix}").read_bytes(), {})
    study = write(slices_of(volume), tmp_path / "study")
    slices = [("image", p.name, p.read_bytes()) for p in sorted(study.rglob("*")) if p.is_file()]
    data, kind = form(slices, [("format", "nii.gz"), ("format", "dicom-seg"), ("sr", "true")])
    bodies["dicom"] = ("/v1/jobs", data, {"content-type": kind})
    data, kind = form([*slices[:1], ("image", "x", b"junk")], [])
    assert ask(app, "POST", "/v1/jobs", data, headers={"content-type": kind}).status == 415
    data, kind = form([("image", "a", bodies["mha"][1]), ("image", "b", bodies["mha"][1])], [])
    assert ask(app, "POST", "/v1/jobs", data, headers={"content-type": kind}).status == 415
    expected = {"nrrd": {"label.nrrd"}, "mha": {"label.mha"}, "dicom": {"label.nii.gz", "seg.dcm", "sr.dcm"}}
    for name, (path, body, headers) in bodies.items():
        job = ask(app, "POST", path, body, headers=headers).json["id"]
        record = service.wait(job, 60)
        assert record.state == "done", record.error
        assert set(service.files(job)) == {*expected[name], "report.json"}
        for file in expected[name]:
            assert ask(app, "GET", f"/v1/jobs/{job}/{file}").status == 200
        missing = ask(app, "GET", f"/v1/jobs/{job}/preview.png")
        assert missing.status == 404 and "Request it with the job" in missing.json["fix"]


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
def test_an_upload_cannot_name_a_file_of_the_service(
    make_service: Any, app: Any, material: Path, tmp_path: Path, name: str
) -> None:
    """Otherwise the preview of an uploaded header would show the voxels of any file."""
    from gcis_runtime.images.itk import write_itk

    volume = read_volume(material / "0.nii.gz")
    (tmp_path / "secret.raw").write_bytes(volume.array.tobytes("F"))
    write_itk(tmp_path / name, volume.array, like=volume)
    good = (tmp_path / name).read_bytes()
    if name == "x.mha":
        header = good.partition(b"ElementDataFile")[0].replace(b"CompressedData = True\n", b"")
        header = re.sub(rb"CompressedDataSize.*\n", b"", header)
        bad = header + b"ElementDataFile = secret.raw\n"
    else:
        header = good.partition(b"\n\n")[0].replace(b"encoding: gzip", b"encoding: raw")
        bad = header + b"\ndata file: secret.raw\n\n"
    (tmp_path / name).write_bytes(bad)
    assert np.array_equal(read_volume(tmp_path / name).array, volume.array)
    answer = ask(app, "POST", "/v1/jobs", bad)
    assert answer.status == 422 and "names another file" in answer.json["detail"]
    assert "secret" not in str(answer.json)
    for part in ("roi", "truth"):
        data, kind = form([("image", "a", good), (part, "b", bad)], [])
        assert ask(app, "POST", "/v1/jobs", data, headers={"content-type": kind}).status == 422
    root = tmp_path / "root"
    root.mkdir()
    header_name = name.replace("nrrd", "nhdr").replace("mha", "mhd")
    (root / header_name).write_bytes(bad)
    (root / "secret.raw").symlink_to(tmp_path / "secret.raw")
    rooted = make_app(make_service(), roots=[root])
    body = json.dumps({"path": header_name}).encode()
    assert ask(rooted, "POST", "/v1/jobs", body, headers=JSON).status == 404
    (root / "secret.raw").unlink()
    (root / "secret.raw").write_bytes((tmp_path / "secret.raw").read_bytes())
    assert ask(rooted, "POST", "/v1/jobs", body, headers=JSON).status == 202


def test_a_path_must_lie_below_a_root(make_service: Any, material: Path, tmp_path: Path) -> None:
    service = make_service()
    root, secret = tmp_path / "root", tmp_path / "secret.nii.gz"
    (root / "below").mkdir(parents=True)
    ct = (material / "0.nii.gz").read_bytes()
    secret.write_bytes(ct)
    (root / "below" / "ct.nii.gz").write_bytes(ct)
    (root / "link.nii.gz").symlink_to(secret)
    (root / "list.csv").write_text(f"image\n{secret}\n")
    app = make_app(service, roots=[root])

    def status(path: str, **options: Any) -> int:
        body = json.dumps({"path": path, **options}).encode()
        return ask(app, "POST", "/v1/jobs", body, headers=JSON).status

    for outside in (str(secret), "../secret.nii.gz", "below/../../secret.nii.gz", "link.nii.gz", "no", ".",
                    "\0", ""):  # fmt: skip
        assert status(outside) == 404, outside
    assert status("below/ct.nii.gz") == status(str(root / "below" / "ct.nii.gz"), prompt=["liver"]) == 202
    assert status("below/ct.nii.gz", series=3) == 422
    body = b'{"path": "list.csv"}'
    job = ask(app, "POST", "/v1/jobs", body, headers=JSON).json["id"]
    record = service.wait(job, 60)
    assert record.state == "failed" and str(root) not in record.error.detail


def test_a_repeated_key_returns_the_first_job(app: Any, material: Path) -> None:
    one, two = ((material / f"{i}.nii.gz").read_bytes() for i in range(2))
    key = {"idempotency-key": "abc"}
    first = ask(app, "POST", "/v1/jobs", one, headers=key)
    again = ask(app, "POST", "/v1/jobs", one, headers=key)
    assert first.json["id"] == again.json["id"] and (first.status, again.status) == (202, 202)
    assert ask(app, "POST", "/v1/jobs", two, headers=key).status == 422
    assert ask(app, "POST", "/v1/jobs?preview=true", one, headers=key).status == 422


def test_a_job_is_followed_by_events_and_then_removed(app: Any, service: Any, material: Path) -> None:
    job = ask(app, "POST", "/v1/jobs", (material / "0.nii.gz").read_bytes()).json["id"]
    answer = ask(app, "GET", f"/v1/jobs/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    views = [json.loads(e.split("data: ")[1]) for e in answer.body.decode().split("\n\n") if "data: " in e]
    assert views[-1]["state"] == "done"
    schema = {"$ref": "#/components/schemas/JobView", **document()}
    for view in views:
        jsonschema.validate(view, schema)
    assert ask(app, "DELETE", f"/v1/jobs/{job}").status == 204
    assert ask(app, "GET", f"/v1/jobs/{job}").status == 404


def test_the_document_describes_the_routes(app: Any) -> None:
    found = ask(app, "GET", "/openapi.json").json
    described = {(m.upper(), p) for p, ops in found["paths"].items() for m in ops if m != "parameters"}
    served = {(m, r.path.replace(":path", "")) for r in app.routes for m in r.methods if m != "HEAD"}
    assert described == served
    names = set(found["components"]["schemas"])

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"].rsplit("/", 1)[1]} if "$ref" in value else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert references(found) <= names
    for schema in found["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    bundles = ask(app, "GET", "/v1/bundles").json["bundles"]
    jsonschema.validate(bundles[0], {"$ref": "#/components/schemas/BundleView", **found})
    assert [label["name"] for label in bundles[0]["labels"]] == ["bone", "liver"]


def test_the_options_are_those_of_the_command() -> None:
    from gcis_runtime.cli.run import main
    from gcis_runtime.serve.request import JobRequest

    only_local = {"phantom", "out", "json", "resume", "shard", "engine", "device", "precision", "threads",
                  "tf32", "server", "token_file", "ray", "verbose", "version", "help", "truth",
                  "all_series"}  # fmt: skip
    options = {o.removeprefix("--").replace("-", "_") for p in main.params for o in p.opts if o[:2] == "--"}
    assert options - only_local == set(JobRequest.__struct_fields__)
