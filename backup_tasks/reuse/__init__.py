"""Which chunks of the previous backup stay: pure decisions, tried against a model.

In come old and new entries side by side; out come ranges of chunks to copy and entries to write.
Below: `snapshot`.
"""
