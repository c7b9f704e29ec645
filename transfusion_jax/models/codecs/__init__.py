"""Codecs: images to latents and back, and what trains them."""
