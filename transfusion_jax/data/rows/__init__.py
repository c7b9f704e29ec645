"""Sequences of positions, packed into the rows of a batch."""
