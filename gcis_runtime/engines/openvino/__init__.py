"""OpenVINO sessions on the CPU."""
