"""The store that is an S3 bucket; `store` is its door, and boto3 is used nowhere else.

In come the calls of `stores.base`; out go requests, and each answer is checked before it is
believed.
"""
