"""Evaluation of a trained model: exact scores, likelihoods, distances."""
