"""Samplers: how the values of one modality are drawn."""
