"""A model of your own lives in a package of yours; see `wide.py`."""
