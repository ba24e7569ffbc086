"""Which inputs are unusual? → Flags"""

from candling.techniques.flag.contract import Flags
from candling.techniques.flag.difference import Difference

__all__ = ["Difference", "Flags"]
