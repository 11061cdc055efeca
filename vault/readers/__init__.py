"""What reads rows into the tools that people have, over anything that can be scanned.

Optional libraries are imported by the reader that needs one, when it is used, and by nothing else.
"""

from vault.readers.readers import Readers

__all__ = ["Readers"]
