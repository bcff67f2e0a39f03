"""Trust: whether others may write the files that root obeys, or the folders on the way to them.

In come paths; out comes nothing, or a `TrustError` with the command that mends it. Below:
`filesystem`.
"""
