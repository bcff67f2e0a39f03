"""What is deleted, and why the rest stays: retention, the guard before it, lifecycle rules.

In come the census and the profile's rules; out come deletions, each with its reason. Below:
`verify`.
"""
