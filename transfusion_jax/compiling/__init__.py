"""Compilation of the training step for TPU pods without hardware, and its analysis."""
