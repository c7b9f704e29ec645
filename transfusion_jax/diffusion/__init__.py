"""Noise as mathematics: paths, times, solvers and guidance; knows no model."""
