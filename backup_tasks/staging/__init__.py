"""What an interrupted run leaves, so that the next one does not send it again.

In come finished chunks; out come staging objects, a journal of them, and what can be salvaged.
Below: `previous`.
"""
