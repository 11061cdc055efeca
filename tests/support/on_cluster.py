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
    "tests/broker/test_served_over_http.py",
    "tests/broker/test_workers.py",
    "tests/broker/test_readiness.py",
    "tests/attacks/test_catalog_attacks.py",
    "tests/attacks/test_isolation.py",
    "tests/attacks/test_leases.py",
    "tests/attacks/hostile",
)
_FILES_OF_THE_STORE: Final = "it moves or changes files of a store, a catalog or a keystore in the vault's directory"
ONLY_HERE: Final[Mapping[str, str]] = {
    "tests/integration/test_leases.py::test_a_store_with_addresses_of_its_own_is_read_straight": "moto is its store",
    "tests/integration/test_leases.py::test_a_store_without_tls_is_read_by_way_of_the_broker": "moto is its store",
    "tests/broker/test_readiness.py::test_a_broker_without_its_store_lives_and_is_not_ready": _FILES_OF_THE_STORE,
    "tests/broker/test_readiness.py::test_each_thing_that_a_read_needs_is_looked_at": _FILES_OF_THE_STORE,
    "tests/broker/test_readiness.py::test_another_root_document_in_the_store_is_not_the_pinned_one": _FILES_OF_THE_STORE,
}


if __name__ == "__main__":
    print(*FILES)
