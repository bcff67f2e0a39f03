"""What is on the server: walking the sources, describing entries, reading files.

In come the profile's sources and rules; out come entries, sorted as the walk goes, and content.
Below: `chunks`.
"""
