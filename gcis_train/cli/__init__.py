"""Command-line interface of training: parse, call, print."""
