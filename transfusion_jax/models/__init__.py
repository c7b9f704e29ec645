"""Networks as Flax modules: the transformer, image adapters and autoencoders."""
