"""Generations of frozen knowledge vectors."""
