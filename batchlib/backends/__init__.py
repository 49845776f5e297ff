"""Batch systems, one module each, over what is the same for all of them."""
