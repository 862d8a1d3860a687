"""Images behind URLs: file systems by fsspec, retries and time limits, and a bounded cache on the local disk."""
