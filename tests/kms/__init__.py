"""Tests of the key management services and of the files that hold secrets."""
