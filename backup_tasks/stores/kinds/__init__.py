"""The kinds of stores: a module each, with a `StoreKind` of its own as `KIND`; none needs another.

In: the URL and the keys of [store]. Out: an opened store. `stores.registry` finds them.
"""
