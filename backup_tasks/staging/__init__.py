"""What an interrupted run leaves, so that the next one does not send it again.

Takes finished chunks; gives staging objects, their journal, and the chunks that can be salvaged.
Below: `previous`.
"""
