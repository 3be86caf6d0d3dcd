"""Image files and arrays: read them as `Volume` and write label maps back."""
