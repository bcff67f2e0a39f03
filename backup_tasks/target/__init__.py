"""Files written below a folder, and nowhere else, even where other users may write.

In come entries and their content; out come files with their owners, modes and attributes. Below:
`backup`.
"""
