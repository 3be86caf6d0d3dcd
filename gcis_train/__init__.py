"""Training of the routed network: datalist in, checkpoint out."""
