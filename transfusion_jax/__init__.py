"""Transfusion in JAX: one transformer for interleaved text and images."""

__version__ = '0.1.0'
