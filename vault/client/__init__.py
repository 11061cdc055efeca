"""The vendor's side: open a granted slice with nothing but a profile file.

Needs no vault, no KMS and no catalog. A read that does not end as the broker said it would end raises; it
never yields a shorter table. Plain HTTP is used on loopback only.
"""

from vault.client.datasets import Client, Dataset
from vault.client.fetching import Fetched, Progress, fetch
from vault.client.opening import connect, connect_with_token, delegate, new_request

__all__ = [
    "Client",
    "Dataset",
    "Fetched",
    "Progress",
    "connect",
    "connect_with_token",
    "delegate",
    "fetch",
    "new_request",
]
