"""Torch modules that score a click. No input or output."""
