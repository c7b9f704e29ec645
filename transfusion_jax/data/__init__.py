"""Documents of text and images, from their source to packed batches; no jax here."""
