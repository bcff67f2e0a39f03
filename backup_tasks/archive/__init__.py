"""One archive laid out: entries into chunks, in which order, and the manifest behind them.

In come entries and what is reused; out come chunks, manifest and footer, in order. Below:
`upload`.
"""
