"""Training options: values, flags, configuration files and the published recipe."""
