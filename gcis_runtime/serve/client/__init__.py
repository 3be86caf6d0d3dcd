"""Run cases of `gcis-run` on a service, with the standard library and without an engine."""
