"""Contents of a bundle: settings, labels, manifest draft, and the staged folder that becomes the bundle."""
