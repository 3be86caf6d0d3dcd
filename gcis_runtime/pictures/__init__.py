"""Pictures: draw planes of a volume with the structures of its label map."""
