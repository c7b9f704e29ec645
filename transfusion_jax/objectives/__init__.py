"""Losses: from a model, a batch and a key to sums that the step adds up."""
