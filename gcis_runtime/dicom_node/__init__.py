"""Receive DICOM series over the network, and send results to other nodes. Needs the extra `dicom`."""
