"""Write the results of a job where `gcis-run` writes those of a local run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs import statistics
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.resume import run_key
from gcis_runtime.serve.client.connection import Connection
from gcis_runtime.serve.results import REPORT, STATISTICS, single_files
from gcis_runtime.system.atomic_files import replacing, replacing_folder, unwritable
from gcis_runtime.system.json_files import write_json


def write_results(
    connection: Connection, view: dict[str, Any], job: Job, options: RunOptions, identity: Identity
) -> Report:
    """Write the results of a job; the report is written last, as after a local run.

    Args:
        connection: The service.
        view: The job in the service, which is done.
        job: The case with its local paths.
        options: Options of the run.
        identity: The bundle and the engine of the service.

    Raises:
        GcisError: A result cannot be read or written.
    """
    job.report.unlink(missing_ok=True)
    path = str(view["links"]["self"])
    local = single_files(job)
    for name, file in local.items():
        if name in view["links"] and name not in (REPORT, STATISTICS):
            with replacing(file) as temporary:
                connection.download(f"{path}/{name}", temporary)
    for kind, folder in (("masks", job.masks), ("probability", job.probabilities)):
        names = [name for name in view["links"] if name.startswith(f"{kind}/")]
        if names:
            _write_folder(connection, path, names, folder)
    report = _local_report(view["report"], job, options, identity)
    if STATISTICS in view["links"]:  # its rows contain the name of the case, which the service does not know
        rows = statistics.csv_rows(job.name, report.structures, uids=job.uids)
        statistics.write_csv(job.statistics, [statistics.COLUMNS, *rows])
    write_json(job.report, report)
    return report


def _write_folder(connection: Connection, path: str, names: list[str], folder: Path) -> None:
    try:
        with replacing_folder(folder) as temporary:
            for name in names:
                connection.download(f"{path}/{name}", temporary / Path(name).name)
    except OSError as error:
        raise unwritable(folder, error) from error


def _local_report(document: dict[str, Any], job: Job, options: RunOptions, identity: Identity) -> Report:
    """Return the report with local paths, and with a run key that `--resume` finds again."""
    names = {name: str(path) for name, path in single_files(job).items()}
    for field, folder in (("masks", job.masks), ("probability", job.probabilities)):
        if field in document:
            document[field] = {n: str(folder / Path(file).name) for n, file in document[field].items()}
    for field in ("labels", "statistics", "preview", "report_html"):
        if field in document:
            document[field] = names.get(document[field], document[field])
    if "dicom" in document:
        files = document["dicom"].get("files", {})
        document["dicom"]["files"] = {kind: names.get(file, file) for kind, file in files.items()}
    notes = () if job.series is None else job.series.notes
    report = msgspec.convert(document, Report)
    key = run_key(identity, job.image, options, job.series)
    changes: dict[str, Any] = {
        "case": job.name,
        "image": str(job.image),
        "key": msgspec.structs.replace(key, engine=report.engine.name, precision=report.engine.precision),
        "warnings": [*(note for note in notes if note not in report.warnings), *report.warnings],
    }
    if options.truth is not None:
        changes["truth"] = str(options.truth)
    return msgspec.structs.replace(report, **changes)
