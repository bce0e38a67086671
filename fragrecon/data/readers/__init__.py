"""Readers of on-disk formats, one module per format; see `fragrecon.data.store.Reader`."""
