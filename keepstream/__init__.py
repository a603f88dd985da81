"""The command line, configuration and wiring. The only package that knows all the others."""
