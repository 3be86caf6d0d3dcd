"""Bundles: read, verify, install and describe the exported artefact."""
