"""Configs: one file per experiment, with its command, cost and result."""
