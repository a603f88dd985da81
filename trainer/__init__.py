"""Learns continually from labelled examples."""
