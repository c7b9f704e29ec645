"""Experiments: one file each, whose docstring gives the command, cost and result."""
