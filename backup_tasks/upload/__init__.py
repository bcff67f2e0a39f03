"""Chunks and copied ranges put together into parts that S3 accepts.

Takes stored chunks and ranges in order; gives parts to a store's writer. Below: `reuse`.
"""
