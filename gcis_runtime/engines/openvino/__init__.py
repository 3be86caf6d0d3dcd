"""Run bundles in OpenVINO on the CPU."""
