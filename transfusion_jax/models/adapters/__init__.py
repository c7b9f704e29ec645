"""Image adapters: latents to vectors for the transformer, and back."""
