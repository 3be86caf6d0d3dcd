"""Scripts for developers of the project; not part of the wheel."""
