"""What a trained model is worth: exact scores, likelihoods, distances."""
