"""Sampling: text, images and documents of both, from a trained model."""
