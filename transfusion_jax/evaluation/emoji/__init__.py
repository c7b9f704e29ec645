"""Evaluators of emoji scenes, and their exact scorer."""
