"""The kinds of stores: one module each, with its `StoreKind` as `KIND`; none needs another.

Takes the URL and the keys of [store]; gives an open store. `stores.registry` finds the kinds.
"""
