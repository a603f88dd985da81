"""The periodic super-domain job that extracts knowledge vectors."""
