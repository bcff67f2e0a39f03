"""Where objects lie: a bucket or a folder, behind one Protocol (`base`), opened by `registry`.

In come names and bytes; out come objects and ranges of them, or a `StoreError`. Below: `format`.
"""
