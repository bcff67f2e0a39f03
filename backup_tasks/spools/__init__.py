"""What does not fit into memory: records, numbers and tables that move to a temporary file.

In come more items than memory should hold; out they come again, in order or by number. Below:
`common`.
"""
