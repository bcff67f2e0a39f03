"""The previous backup as the next one uses it: its entries, its chunks, its versions of files.

Takes the newest backup that counts; gives its entries, sorted, from state directory or store.
Below: `census`.
"""
