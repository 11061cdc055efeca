"""The object store: immutable objects, written once, over any fsspec file system."""

from vault.objects.opening import open_store
from vault.objects.probing import probe
from vault.objects.reading import StoredObject
from vault.objects.store import ObjectInfo, ObjectStore

__all__ = ["ObjectInfo", "ObjectStore", "StoredObject", "open_store", "probe"]
