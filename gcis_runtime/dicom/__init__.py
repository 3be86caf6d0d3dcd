"""DICOM: find CT series in folders, files and archives, and read them. Needs the extra `dicom`."""
