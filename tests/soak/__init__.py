"""The long form of the crash tests; see `__main__`."""
