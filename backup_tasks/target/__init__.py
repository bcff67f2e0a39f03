"""Files written below a folder, and nowhere else, whoever else may write there.

In come entries and their content; out come files with their owners, modes and attributes. Below:
`backup`.
"""
