"""The release's version, read by the build and by ``dsvault --version``."""

__version__ = "0.1.0"
