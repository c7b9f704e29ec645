"""Published weights under the names of this package."""
