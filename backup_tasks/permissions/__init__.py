"""Who else may write what root is about to obey: files, and the folders on the way to them.

In come paths; out comes nothing, or a `TrustError` with the command that mends it. Below:
`filesystem`.
"""
