"""Figures, measured: each module prints one line of JSON last."""
