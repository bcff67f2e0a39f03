"""Any archive opened and read: footer, manifest, signature, entries; ours or a plain .tar.gz.

In comes an object of a store; out come its entries and their content, checked. Below: `archive`.
"""
