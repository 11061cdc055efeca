"""The primitives that dsvault calls, against published vectors."""
