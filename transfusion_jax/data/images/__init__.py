"""Image files: headers, decoders, pixels."""
