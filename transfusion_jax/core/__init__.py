"""Foundations: pytrees, mesh axes, commands, files. Imports nothing else of ours."""
