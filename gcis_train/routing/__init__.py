"""Routing: pathways of prompts and statistics of the routers."""
