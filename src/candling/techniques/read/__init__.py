"""What does a state hold? → Reader"""

from candling.techniques.read.trusted_probe import Reader, read_in_trusted_contexts

__all__ = ["Reader", "read_in_trusted_contexts"]
