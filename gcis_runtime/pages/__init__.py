"""Pages: render the result of a case and of many cases as self-contained HTML."""
