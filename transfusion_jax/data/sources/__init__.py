"""Corpora on disk or in a bucket, read by record number; `source.py` says how."""
