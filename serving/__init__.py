"""Answers requests with the newest good snapshot."""
