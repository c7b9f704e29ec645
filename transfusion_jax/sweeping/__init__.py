"""Sweeps: sets of overrides as trials, what became of them, and one page of all."""
