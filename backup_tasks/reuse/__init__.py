"""Which chunks of the previous backup stay: pure decisions, tried against a model.

Takes old and new entries side by side; gives ranges of chunks to copy and entries to write.
Below: `snapshot`.
"""
