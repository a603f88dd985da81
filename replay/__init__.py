"""Reads old logs, and a simulated world, as a Source."""
