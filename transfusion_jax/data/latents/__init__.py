"""Data sets that hold latents in place of images."""
