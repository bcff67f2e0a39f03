"""The previous backup as the next one uses it: its entries, its chunks, its versions of files.

In comes the newest backup that counts; out come its entries, sorted, from state or store. Below:
`census`.
"""
