"""Records, numbers and tables too large for memory, which move to a temporary file.

In come more items than memory should hold; out they come again, in order or by number. Below:
`common`.
"""
