"""``dsvault://``: granted slices as files, for whatever opens files through fsspec.

    pd.read_parquet("dsvault://evals/latest.parquet", storage_options={"profile": "acme.json"})

Only reads. A file is made in memory by one read through the vendor's client, and is on no disk.
"""

from vault.filesystem.system import DsvaultFileSystem

__all__ = ["DsvaultFileSystem"]
