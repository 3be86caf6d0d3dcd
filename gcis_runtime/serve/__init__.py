"""Serve bundles over HTTP with jobs in a folder, and implement the client of `gcis-run --server`."""
