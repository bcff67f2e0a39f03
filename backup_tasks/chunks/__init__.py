"""Raw chunks to stored ones and back: gzip, encryption, and reading ahead on all cores.

In come about 1 MiB of tar each; out come gzip members or age files with their hashes. Below:
`profile`.
"""
