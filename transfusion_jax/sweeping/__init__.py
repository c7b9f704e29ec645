"""Sweeps: sets of overrides as trials, a ledger of their results, and a page."""
