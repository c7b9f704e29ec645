"""Runs: configuration, parts, and stages from the first step to the report."""
