"""The suite of ``make test-cluster``: the end-to-end tests that run on servers too, and those of them that do not.

Printed, its files are pytest's arguments. What is left out is about one machine's files, and says so.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["FILES", "ONLY_HERE"]

#: What the suite is made of, from the repository's root on.
FILES: Final = (
    "tests/integration/test_publish_and_grant.py",
    "tests/integration/test_streams.py",
    "tests/integration/test_leases.py",
    "tests/integration/test_limits.py",
    "tests/integration/test_masks.py",
    "tests/integration/test_resume.py",
    "tests/integration/test_rewrap.py",
    "tests/integration/test_rotation_jobs.py",
    "tests/integration/test_deletion.py",
    "tests/integration/test_offboard.py",
    "tests/integration/test_audit.py",
    "tests/integration/test_protected_datasets.py",
    "tests/integration/test_pinned_versions.py",
    "tests/integration/test_observing.py",
    "tests/integration/test_key_cache.py",
    "tests/integration/test_fetch.py",
    "tests/integration/test_races.py",
    "tests/sharing/test_clients.py",
    "tests/sharing/test_names.py",
    "tests/broker/test_served_over_http.py",
    "tests/broker/test_workers.py",
    "tests/broker/test_readiness.py",
    "tests/attacks/test_catalog_attacks.py",
    "tests/attacks/test_isolation.py",
    "tests/attacks/test_leases.py",
    "tests/attacks/hostile",
)
_OWN_ADDRESSES: Final = "it is about ciphertext by way of the broker, and a bucket has addresses of its own"
_FILES_OF_THE_STORE: Final = "it moves or changes files of a store, a catalog or a keystore in the vault's directory"
ONLY_HERE: Final[Mapping[str, str]] = {
    "tests/attacks/test_leases.py::test_the_keys_of_a_page_open_nothing_beyond_it": _OWN_ADDRESSES,
    "tests/attacks/test_leases.py::test_nothing_more_is_leased_once_it_is_ended": _OWN_ADDRESSES,
    "tests/attacks/test_leases.py::test_an_address_ends_with_its_page": _OWN_ADDRESSES,
    "tests/attacks/test_leases.py::test_an_address_that_was_not_handed_out_gives_nothing": _OWN_ADDRESSES,
    "tests/integration/test_fetch.py::test_killed_leases_lose_and_double_nothing": (
        "it slows the way by the broker, and a bucket has addresses of its own"
    ),
    "tests/integration/test_rewrap.py::test_ten_thousand_data_keys_take_seconds": "it times the local keystore",
    "tests/integration/test_streams.py::test_a_read_that_nobody_waits_for_any_more_opens_no_further_chunk": (
        "it counts shards that are fetched one after another, and a bucket is read ahead"
    ),
    "tests/integration/test_rotation_jobs.py::test_a_rekey_in_a_directory_is_a_scrub_of_what_was_added_too": (
        "a bucket is asked for as many bytes as there were"
    ),
    "tests/attacks/test_isolation.py::test_a_broker_of_one_vendor_holds_no_other_key": _FILES_OF_THE_STORE,
    "tests/integration/test_leases.py::test_a_store_with_addresses_of_its_own_is_read_straight": "moto is its store",
    "tests/integration/test_leases.py::test_a_store_without_tls_is_read_by_way_of_the_broker": "moto is its store",
    "tests/broker/test_readiness.py::test_a_broker_without_its_store_lives_and_is_not_ready": _FILES_OF_THE_STORE,
    "tests/broker/test_readiness.py::test_each_thing_that_a_read_needs_is_looked_at": _FILES_OF_THE_STORE,
    "tests/broker/test_readiness.py::test_another_root_document_in_the_store_is_not_the_pinned_one": _FILES_OF_THE_STORE,
}


if __name__ == "__main__":
    print(*FILES)
