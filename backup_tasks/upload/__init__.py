"""Chunks and copied ranges put together into parts that S3 accepts.

In come stored chunks and ranges in order; out go parts to a store's writer. Below: `reuse`.
"""
