"""The ``dsvault`` command line."""
