"""Describe the API as an OpenAPI document."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from gcis_runtime.serve.job import JobView
from gcis_runtime.serve.problems import MEDIA_TYPE, Problem
from gcis_runtime.serve.request import JobRequest
from gcis_runtime.serve.views import BundleView

_REF = "#/components/schemas/{name}"
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DESCRIPTION = (
    "Segments CT images with exported bundles. Options have the names and the meaning of those of gcis-run. "
    "Research software, not a medical device."
)


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    types = (JobView, JobRequest, Problem, BundleView)
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gcis-serve", "version": version("gcis"), "description": _DESCRIPTION},
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    job = _json({"$ref": _REF.format(name="JobView")})
    bundles = {"type": "array", "items": {"$ref": _REF.format(name="BundleView")}}
    busy = (401, 403, 408, 413, 415, 422, 429, 503)
    return {
        "/health": {"get": _operation("Whether the process lives", {200: _json(_object())}, (), free=True)},
        "/ready": {"get": _operation("Whether engines are open", {200: _json(_object())}, (503,), free=True)},
        "/metrics": {"get": _operation("Counters for Prometheus", {200: {"text/plain": {}}}, (401,))},
        "/openapi.json": {"get": _operation("This document", {200: _json(_object())}, (), free=True)},
        "/v1/bundles": {
            "get": _operation(
                "The bundles; with only=true the one that a job with these options would take",
                {200: _json(_object(bundles=bundles))}, (401, 404, 422),
            ) | {"parameters": [
                {"name": name, "in": "query", "required": False, "schema": {"type": kind}}
                for name, kind in (("only", "boolean"), ("bundle", "string"), ("prompt", "string"))
            ]},
        },
        "/v1/segment": {
            "post": _operation(
                "Segment an image and wait. Returns the first format of the labels, or with Accept: "
                "application/json the job. The job is cancelled if the client goes away.",
                {200: {"application/octet-stream": _BINARY, **job}},
                (*busy, 404, 409, 500, 507),
            ) | _submission()
        },
        "/v1/jobs": {
            "post": _operation(
                "Submit a job. It survives a crash of the service from the answer on.",
                {202: job}, (*busy, 404, 507),
            ) | _submission(),
            "get": _operation("List the jobs", {200: _json(_object(jobs={"type": "array"}))}, (401,)),
        },
    } | _job_paths(job)  # fmt: skip


def _job_paths(job: dict[str, Any]) -> dict[str, Any]:
    """Return the paths of one job, whose content is `job`."""
    return {
        "/v1/jobs/{job}": {
            "parameters": [_path_parameter("job", "Identifier of the job")],
            "get": _operation("State, progress, forecast, report", {200: job}, (401, 404)),
            "delete": _operation(
                "Cancel the job at the next window (202), or remove it if it has ended (204)",
                {202: job, 204: None}, (401, 404),
            ),
        },
        "/v1/jobs/{job}/events": {
            "parameters": [_path_parameter("job", "Identifier of the job")],
            "get": _operation(
                "The job as a server-sent event after each change",
                {200: {"text/event-stream": {}}}, (401, 404),
            ),
        },
        "/v1/jobs/{job}/{name}": {
            "parameters": [
                _path_parameter("job", "Identifier of the job"),
                _path_parameter(
                    "name", "label.nii.gz, label.nrrd, seg.dcm, rtstruct.dcm, sr.dcm, preview.png, "
                    "report.html, statistics.csv, report.json, masks/FILE or probability/FILE",
                ),
            ],
            "get": _operation(
                "A result. The error of a job that failed.",
                {200: {"application/octet-stream": _BINARY}}, (401, 404, 409, 413, 422, 500, 503, 507),
            ),
        },
    }  # fmt: skip


def _operation(
    summary: str, answers: dict[int, Any], problems: tuple[int, ...], *, free: bool = False
) -> dict[str, Any]:
    """Return an operation with its answers by status; None is an answer without content."""
    responses: dict[str, Any] = {}
    for status, content in answers.items():
        responses[str(status)] = {"description": summary} | ({} if content is None else {"content": content})
    for status in sorted(set(problems)):
        responses[str(status)] = {"description": "Problem details", "content": _PROBLEM}
    return {"summary": summary, "responses": responses} | ({} if free else {"security": [{}, {"token": []}]})


def _submission() -> dict[str, Any]:
    """Return the parameters and bodies of a submission."""
    fields = msgspec.json.schema(JobRequest)["$defs"]["JobRequest"]["properties"]
    query = [{"name": name, "in": "query", "required": False, "schema": schema, "style": "form",
              "explode": True} for name, schema in fields.items()]  # fmt: skip
    key = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string"},
           "description": "A repeated request with the same key returns the first job."}  # fmt: skip
    image = {"type": "string", "format": "binary"}
    files = {"image": {"oneOf": [image, {"type": "array", "items": image}]}, "roi": image, "truth": image}
    form = {"schema": {"type": "object", "required": ["image"], "properties": files | fields}}
    path = {
        "schema": {
            "type": "object",
            "required": ["path"],
            "properties": {"path": {"type": "string"}} | fields,
            "additionalProperties": False,
        }
    }
    content = {"application/octet-stream": _BINARY, "multipart/form-data": form, "application/json": path}
    return {"parameters": [key, *query], "requestBody": {"required": True, "content": content}}


def _path_parameter(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}
