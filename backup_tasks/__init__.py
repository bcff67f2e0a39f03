"""Backups of Linux servers to S3: every backup is one ordinary .tar.gz that stands alone."""

__version__ = "0.1.0"
