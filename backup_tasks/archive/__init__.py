"""One archive laid out: entries into chunks, in which order, and the manifest behind them.

Takes entries and the reuse decision; gives chunks, manifest and footer, in order. Below: `upload`.
"""
