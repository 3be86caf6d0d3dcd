"""Command-line interfaces of the runtime: parse, call, print."""
