"""What is on the server: walking the sources, describing entries, reading files.

Takes the profile's sources and rules; gives entries in the order of the walk, and file content.
Below: `chunks`.
"""
