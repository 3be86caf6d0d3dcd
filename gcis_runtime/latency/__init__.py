"""Latency report: time, memory and agreement of each engine of a bundle on one CT, as one page.

from gcis_runtime.latency.measure import Settings, measure
from gcis_runtime.latency.report import write_report

record = measure(["demo"], Path("ct.nii.gz"), Settings(), on_step=print)
write_report(record, Path("report"))
"""
