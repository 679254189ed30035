"""Weights files of other programs: read without running what is in them, checked key by key, written as shards."""
