"""Compiling the training step for a pod of TPUs that is not there, and reading it."""
