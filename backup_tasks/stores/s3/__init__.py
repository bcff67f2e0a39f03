"""A store in an S3 bucket. `store` is the way in, and boto3 is used nowhere else.

In come the calls of `stores.base`; out go requests. Each answer is checked before it is believed.
"""
